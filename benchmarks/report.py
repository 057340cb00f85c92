"""The report of the step times: a row for each net and dtype, on the terminal and as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import peer
from benchmarks.nets import Net
from benchmarks.timing import median_with_interval
from pipeline.reproducibility.environment import provenance

BARE, INLINE, OURS, PROBED = "bare", "inline", "ours", "probed"
PEER, TUTORIAL = "PyTorch", "tutorial"
PEER_BARE = "bare PyTorch"
COLUMNS = ("net", "hidden σ", "B", "dtype", BARE, INLINE, OURS, PROBED, PEER, TUTORIAL)
RATIOS = ((TUTORIAL, OURS), (PEER, OURS), (OURS, INLINE), (OURS, BARE), (PROBED, OURS), (PEER_BARE, BARE))
OVER_INLINE = 1.25
HEADINGS = (*COLUMNS, *(f"{a} / {b}" for a, b in RATIOS), "claims")


@dataclass(frozen=True)
class Row:
    """The times of one net in one dtype.

    Attributes:
        net: The net.
        dtype: The name of the dtype.
        times: Seconds per step [rounds], by contender, without ``PEER`` if PyTorch is not installed.
        way: The fastest way of PyTorch, or None.
    """

    net: Net
    dtype: str
    times: Mapping[str, NDArray[np.float64]]
    way: str | None

    def microseconds(self, contender: str) -> str:
        """Return the median time of a step in µs."""
        return f"{np.median(self.times[contender]) * 1e6:.0f}" if contender in self.times else "-"

    def ratio(self, above: str, below: str) -> tuple[float, float, float] | None:
        """Return the median over rounds of the ratio of two contenders, with its 95 % interval, or None."""
        if above not in self.times or below not in self.times:
            return None
        return median_with_interval(self.times[above] / self.times[below])

    def failures(self) -> list[str]:
        """Return the claims that this row disproves: the whole interval lies on the wrong side."""
        net, wrong = self.net, []
        ratio = self.ratio(net.against, OURS)
        if ratio is not None and ratio[2] < net.promised:
            wrong.append(f"{net.against} / ours {ratio[0]:.2f} < {net.promised:g}")
        for contender, most in ((INLINE, OVER_INLINE), (BARE, net.over_bare)):
            ratio = self.ratio(OURS, contender)
            if most is not None and ratio is not None and ratio[1] > most:
                wrong.append(f"ours / {contender} {ratio[0]:.2f} > {most:g}")
        return wrong

    def verdict(self) -> str:
        """Return "pass", the failed claims, or that PyTorch is missing."""
        if self.way is None and not self.failures():
            return "not compared with PyTorch"
        return "; ".join(self.failures()) or "pass"

    def cells(self) -> list[str]:
        """Return the row as text, under ``HEADINGS``."""
        times = [self.microseconds(c) for c in (BARE, INLINE, OURS, PROBED, PEER, TUTORIAL)]
        ratios = [f"{r[0]:.2f}" if (r := self.ratio(a, b)) else "-" for a, b in RATIOS]
        net = self.net
        return [net.name, net.activation, str(net.batch), self.dtype, *times, *ratios, self.verdict()]


def machine() -> list[str]:
    """Return lines with the processor and the versions that the numbers depend on."""
    facts = provenance().facts
    torch = peer.version()
    return [
        f"CPU: {facts['processor']}; one thread",
        f"BLAS of NumPy: {facts['blas']}, kernel {facts['blas.core_type']}",
        f"Python {facts['python']}, numpy {facts['package.numpy']}, "
        + (f"torch {torch}" if torch else f"no torch (install it: `{peer.INSTALL}`)"),
    ]


def table(rows: list[Row]) -> Table:
    """Return the table for the terminal."""
    result = Table(caption="µs per step and ratios: medians", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for i, heading in enumerate(HEADINGS):
        name = heading.replace(" / ", "\n/ ")
        result.add_column(name, justify="right" if 4 <= i < len(HEADINGS) - 1 else "left", no_wrap=True)
    for row in rows:
        cells, failed = row.cells(), bool(row.failures())
        cells[-1] = "FAIL" if failed else cells[-1]  # the failed claims stand below the table
        result.add_row(*cells, style="red" if failed else None, end_section=row.dtype == "float64")
    return result


def markdown(rows: list[Row], command: str, date: str) -> str:
    """Return the page docs/benchmarks.md."""
    aligned = ["---" if i < 4 or i == len(HEADINGS) - 1 else "---:" for i in range(len(HEADINGS))]
    lines = [f"| {' | '.join(cells)} |" for cells in ([*HEADINGS], aligned, *(row.cells() for row in rows))]
    ways = [f"- {row.net.name} {row.dtype}: {row.way}" for row in rows if row.way]
    parts = [
        "# One training step, timed",
        f"Written by `{command}` on {date}. Do not edit; run it again.",
        "\n".join(f"- {line}" for line in machine()),
        EXPLANATION,
        "\n".join(lines),
        CLAIMS,
        SWEEPS,
    ]
    if ways:
        parts += ["PyTorch was fastest with:", "\n".join(ways)]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
Microseconds of processor time per step with one thread, medians over rounds in which the contenders alternate in
short turns. Ratios are medians of the ratios within a round, so other load cancels. All contenders have the same
batch and the same initial weights. Our gradients and PyTorch's are compared before the timing.

- **bare**: the matrix products W a, Wᵀ δ and δ aᵀ of every layer into buffers, nothing else: the lower bound.
- **inline**: the same step as ours, written inline in NumPy: allocated arrays, no class, no stack.
- **ours**: forward, backward, SGD update, ‖∂C/∂W‖ of every layer, with the engine, for a stack of one network.
- **probed**: the same with every default probe (`conf/probes/standard.yaml`) in every layer. A run measures on a
  schedule, so this is the cost of a measured step, not of every step.
- **PyTorch**: eager, `nn.Linear` stack, `CrossEntropyLoss`, `torch.optim.SGD`, norms of the weights' gradients; the
  fastest of single, foreach and fused SGD with each or `_foreach_norm` norms, selected for every row.
- **tutorial**: the same as PyTorch's tutorials write it: default SGD, and each norm fetched with `.item()`.
- **bare PyTorch**: PyTorch's matrix products, as bare has NumPy's. They dominate in large nets. Whether NumPy's
  OpenBLAS or PyTorch's MKL multiplies faster depends on the CPU. If the ratio to bare is below 1, no NumPy program
  can make up for it."""

CLAIMS = """\
Claims: on the three smallest nets at least 3.5 times as fast as the tutorial's step; on the others never slower than
PyTorch's fastest; at most 1.25 times the inline step everywhere; at most 1.15 times the bare products on the two
largest. A row fails where the whole 95 % interval of a median ratio lies on the wrong side of its claim.

A claim that only less readable code could meet stays unmet. Our step adds a fixed number of microseconds to the
inline step: method calls, silenced floating-point warnings (`np.errstate`), norms that neither overflow nor
underflow, and an update that is proposed before it is added. The addition matters only in steps of a few hundred
microseconds. Small networks train in stacks, where all members share it. Where the inline step itself misses a claim,
as on 784-256×10-10 against the bare products, the additions, σ, σ' and the update pass through memory once more. The
last ratio, bare PyTorch / bare, compares the two libraries."""

SWEEPS = """\
`python -m benchmarks.sweep --write docs/results/sweeps.md` measures whole sweeps: against an earlier commit, against
one PyTorch process a cell, in stacks and alone, at initialisation, against JAX, and how time and memory grow. Expect
30 to 60 minutes on an idle machine; `--rows NAME,...` measures a part, `--quick` tries it at tiny sizes. PyTorch and
JAX are the extra `bench`: `.venv/bin/python -m pip install --editable '.[bench]'`."""
