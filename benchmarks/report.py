"""A row for each net and dtype, on the terminal and as a Markdown page."""

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
    """What one net took in one dtype.

    Attributes:
        times: seconds per step in each round, by contender; without ``PEER`` if PyTorch is absent.
        way: how PyTorch was fastest, or None.
    """

    net: Net
    dtype: str
    times: Mapping[str, NDArray[np.float64]]
    way: str | None

    def microseconds(self, contender: str) -> str:
        """Median per step."""
        return f"{np.median(self.times[contender]) * 1e6:.0f}" if contender in self.times else "-"

    def ratio(self, above: str, below: str) -> tuple[float, float, float] | None:
        """Median over rounds of the ratio of two contenders, with its 95 % interval."""
        if above not in self.times or below not in self.times:
            return None
        return median_with_interval(self.times[above] / self.times[below])

    def failures(self) -> list[str]:
        """Claims that this row disproves: the whole interval lies on the wrong side."""
        net, wrong = self.net, []
        ratio = self.ratio(net.against, OURS)
        if ratio is not None and ratio[2] < net.promised:
            wrong.append(f"{net.against} / ours {ratio[0]:.2f} < {net.promised:g}")
        for other, most in ((INLINE, OVER_INLINE), (BARE, net.over_bare)):
            ratio = self.ratio(OURS, other)
            if most is not None and ratio is not None and ratio[1] > most:
                wrong.append(f"ours / {other} {ratio[0]:.2f} > {most:g}")
        return wrong

    def verdict(self) -> str:
        """In a word, or the claims that failed."""
        if self.way is None and not self.failures():
            return "not compared with PyTorch"
        return "; ".join(self.failures()) or "pass"

    def cells(self) -> list[str]:
        """The row as text, under ``HEADINGS``."""
        times = [self.microseconds(c) for c in (BARE, INLINE, OURS, PROBED, PEER, TUTORIAL)]
        ratios = [f"{r[0]:.2f}" if (r := self.ratio(a, b)) else "-" for a, b in RATIOS]
        net = self.net
        return [net.name, net.activation, str(net.batch), self.dtype, *times, *ratios, self.verdict()]


def machine() -> list[str]:
    """What the numbers depend on, a line each."""
    tags = provenance().tags
    torch = peer.version()
    return [
        f"CPU: {tags['processor']}; one thread",
        f"BLAS of NumPy: {tags['blas']}, kernel {tags['blas.core_type']}",
        f"Python {tags['python']}, numpy {tags['package.numpy']}, "
        + (f"torch {torch}" if torch else f"no torch (install it: `{peer.INSTALL}`)"),
    ]


def table(rows: list[Row]) -> Table:
    """For the terminal."""
    result = Table(caption="µs per step and ratios: medians", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for i, heading in enumerate(HEADINGS):
        name = heading.replace(" / ", "\n/ ")
        result.add_column(name, justify="right" if 4 <= i < len(HEADINGS) - 1 else "left", no_wrap=True)
    for row in rows:
        cells, failed = row.cells(), bool(row.failures())
        cells[-1] = "FAIL" if failed else cells[-1]  # in full below the table
        result.add_row(*cells, style="red" if failed else None, end_section=row.dtype == "float64")
    return result


def markdown(rows: list[Row], command: str, date: str) -> str:
    """The page docs/benchmarks.md."""
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
    ]
    if ways:
        parts += ["PyTorch was fastest with:", "\n".join(ways)]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
Microseconds of processor time per step, one thread, medians over rounds in which the contenders take short turns;
ratios are medians of the ratios within a round, so load from elsewhere cancels. All see the same batch and the same
initial weights; before the clock starts, our gradients and PyTorch's are compared.

- **bare**: the matrix products W a, Wᵀ δ and δ aᵀ of every layer into buffers, nothing else. The floor.
- **inline**: the same step as ours, written inline in NumPy by hand: arrays made beforehand, no class, no stack.
- **ours**: forward, backward, SGD update, ‖∂C/∂W‖ of every layer, with the engine, for a stack of one network.
- **probed**: the same with every default probe (`conf/probes/standard.yaml`) in every layer. A run measures on a
  schedule, so this is the price of a measured step, not of every step.
- **PyTorch**: eager, `nn.Linear` stack, `CrossEntropyLoss`, `torch.optim.SGD`, norms of the weights' gradients; the
  fastest of single, foreach and fused SGD with each or `_foreach_norm` norms, determined for every row.
- **tutorial**: the same as PyTorch's tutorials write it: default SGD, and each norm fetched with `.item()`.
- **bare PyTorch**: its own matrix products, as bare has NumPy's. In large nets they are nearly all there is, and which
  library multiplies faster, NumPy's OpenBLAS or PyTorch's MKL, depends on the CPU. A ratio to bare below 1 is a head
  start that nothing written in NumPy can make up for."""

CLAIMS = """\
Claims: on the three smallest nets at least 3.5 times as fast as the tutorial's step; on the others never slower than
PyTorch's fastest; at most 1.25 times the inline step everywhere; at most 1.15 times the bare products on the two
largest. A row fails where the whole 95 % interval of a median ratio lies on the wrong side of its claim.

A row that only less readable code could keep is not kept. What our step adds to the inline one is a fixed number of
microseconds: method calls, silenced floating-point warnings (`np.errstate`), norms that neither overflow nor underflow,
and an update that is proposed before it is added. It shows in steps of a few hundred microseconds and nowhere else;
small networks train in stacks, where it is paid once for all members. Where the inline step itself misses a claim, as
on 784-256×10-10 against the bare products, NumPy written by hand does not keep it either: the additions, σ, σ' and the
update go through memory once more. Whose library multiplies faster is the last ratio, bare PyTorch / bare."""
