"""Time one training step against PyTorch eager and against bare matrix products: ``make bench``.

One thread, one process, contenders in short alternating turns. The exit code is 1 if a claim of speed fails
(see ``--no-check``).
"""

from __future__ import annotations

from benchmarks import kernel

kernel.prepare(__name__ == "__main__")  # before NumPy is imported

import argparse  # noqa: E402
import shlex  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402

from benchmarks import peer, report  # noqa: E402
from benchmarks.contenders import Problem, bare_products, inline_step, measured_step, our_gradient, our_step  # noqa: E402
from benchmarks.nets import DTYPES, NETS, Net  # noqa: E402
from benchmarks.timing import interleaved  # noqa: E402

TOLERANCE = {"float32": 1e-3, "float64": 1e-10}  # relative to the largest entry of a layer's gradient


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test of seconds; its numbers mean little")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each of the twelve rows (default 10)")
    parser.add_argument("--no-check", action="store_true", help="exit with 0 even if a claim fails")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the table to this Markdown file")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="the date to write (default: today)")
    return parser


def time_row(net: Net, dtype: str, seconds: float, quick: bool) -> report.Row:
    """Time all contenders on one net in one dtype."""
    problem = Problem.of(net, dtype)
    steps = {
        report.BARE: bare_products(problem),
        report.INLINE: inline_step(problem),
        report.OURS: our_step(problem),
        report.PROBED: measured_step(problem, problem.config.probes),
    }
    way = None
    if peer.version():
        _require_same_work(problem)
        steps[report.PEER_BARE] = peer.peer_products(problem)
        steps[report.TUTORIAL] = peer.tutorial_step(problem)
        way, steps[report.PEER] = peer.fastest_peer_step(problem, seconds / 4, peer.WAYS[:1] if quick else peer.WAYS)
    return report.Row(net, dtype, interleaved(steps, seconds * 3 / 4, 1 if quick else 15), way)


def _require_same_work(problem: Problem) -> None:
    """Check that both sides compute the same gradient."""
    for ours, theirs in zip(our_gradient(problem), peer.peer_gradient(problem), strict=True):
        if np.abs(ours - theirs).max() > TOLERANCE[problem.dtype] * np.abs(theirs).max():
            raise AssertionError(f"{problem.net.name} {problem.dtype}: our gradient differs from PyTorch's")


def main(argv: Sequence[str] | None = None) -> int:
    """Time every row, print the table, check the claims. Return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    options = _parser().parse_args(given)
    seconds = 0.05 if options.quick else options.seconds
    errors, out = Console(stderr=True), Console()
    out.width = max(out.width, 134)  # the table's width; a narrower terminal wraps the lines
    for line in report.machine():
        out.print(line, highlight=False, soft_wrap=True)
    cases = [(net, dtype) for net in NETS for dtype in DTYPES]
    tracked = track(cases, "timing", console=errors, transient=True, disable=not errors.is_terminal)
    rows = [time_row(net, dtype, seconds, options.quick) for net, dtype in tracked]
    out.print(report.table(rows))
    if options.write:
        command = shlex.join(["python", "-m", "benchmarks.step", *given])
        options.write.write_text(report.markdown(rows, command, options.date), encoding="utf-8")
    if peer.version() is None:
        out.print(f"The claims need PyTorch: {peer.INSTALL}", highlight=False, soft_wrap=True)
    failed = [f"{row.net.name} {row.dtype}: {wrong}" for row in rows for wrong in row.failures()]
    for line in failed:
        out.print(f"[red]claim failed[/red]  {line}", highlight=False, soft_wrap=True)
    return int(bool(failed) and not options.no_check)


if __name__ == "__main__":
    sys.exit(main())
