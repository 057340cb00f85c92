"""Measure how fast sweeps are, and write the page docs/results/sweeps.md.

``python -m benchmarks.sweep --write docs/results/sweeps.md`` measures all rows on an otherwise idle machine. The exit
code is 1 if a goal is not met (see ``--no-check``).
"""

from __future__ import annotations

from benchmarks import kernel

kernel.prepare(__name__ == "__main__")  # before NumPy is imported

import argparse  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

from matplotlib.figure import Figure  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markdown import Markdown  # noqa: E402

from benchmarks import report, sweep_commands, sweep_growth, sweep_jax, sweep_stacks  # noqa: E402
from benchmarks.sweep_page import (  # noqa: E402
    BrokenError,
    Goal,
    Line,
    Outcome,
    UnavailableError,
    absent_lines,
    lines_of,
    page,
)
from pipeline.reproducibility.environment import provenance  # noqa: E402


@dataclass(frozen=True)
class Part:
    """A part of a row, which is measured or not as a whole.

    Attributes:
        goals: What it measures.
        measure: Measures it, at the smallest sizes if its argument is true.
    """

    goals: Sequence[Goal]
    measure: Callable[[bool], Outcome]


ROWS: Mapping[str, Sequence[Part]] = {
    "default": [Part(sweep_commands.DEFAULT_GOALS, sweep_commands.time_default)],
    "customary": [Part(sweep_commands.CUSTOMARY_GOALS, sweep_commands.time_customary)],
    "stacks": [
        Part(sweep_stacks.FASHION_GOALS, sweep_stacks.time_fashion_stacks),
        Part(sweep_stacks.DIGITS_GOALS, sweep_stacks.time_digits_stacks),
    ],
    "initialisation": [Part(sweep_commands.INITIALISATION_GOALS, sweep_commands.time_initialisation)],
    "jax": [Part(sweep_jax.JAX_GOALS, sweep_jax.time_jax)],
    "start": [Part(sweep_commands.START_GOALS, sweep_commands.time_start)],
    "growth": [Part(sweep_growth.GROWTH_GOALS, sweep_growth.time_growth)],
    "stack_size": [
        Part([sweep_stacks.size_goal(net)], sweep_stacks.time_stack_sizes(net)) for net in sweep_stacks.STACK_NETS
    ],
}


@dataclass(frozen=True)
class Measured:
    """Everything that the page shows.

    Attributes:
        lines: The lines of the table of goals.
        sections: Markdown below the table.
        figure: The plot of growth, if that row was measured.
    """

    lines: list[Line]
    sections: list[str]
    figure: Figure | None


def measure(rows: Mapping[str, Sequence[Part]], quick: bool, log: Callable[[str], None]) -> Iterator[Measured]:
    """Measure rows one after the other. A part that cannot run is reported, and the next one runs.

    Yields:
        What was measured so far, after each row.

    Args:
        rows: The parts of each row, by name.
        quick: Measure at the smallest sizes.
        log: Called with one line of progress.
    """
    result = Measured([], [], None)
    for name, parts in rows.items():
        for part in parts:
            start = time.perf_counter()
            try:
                outcome = part.measure(quick)
            except (UnavailableError, BrokenError) as reason:
                lines = absent_lines(name, part.goals, reason)
            else:
                goals = [goal for goal in part.goals if goal.quantity in outcome.values]
                lines = lines_of(name, goals, outcome)
                result.sections.extend(outcome.sections)
                result = Measured(result.lines, result.sections, outcome.figure or result.figure)
            result.lines.extend(lines)
            for line in lines:
                log(" | ".join(line.cells()))
            log(f"{name}: {time.perf_counter() - start:.0f} s")
        yield result


def machine() -> list[str]:
    """Return lines with the machine, the versions and the commit that the numbers depend on."""
    facts, jax = provenance().facts, sweep_jax.version()
    changed = ", with uncommitted changes" if facts["git.dirty"] == "true" else ""
    return [
        *report.machine(),
        f"jax {jax}" if jax else f"no jax (install it: `{sweep_jax.INSTALL}`)",
        f"{os.cpu_count()} cores; mlflow {facts['package.mlflow']}; commit {facts['git.commit'][:12]}{changed}",
    ]


def _rows(text: str) -> dict[str, Sequence[Part]]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no row; allowed: {', '.join(ROWS)}")
    return {name: ROWS[name] for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--rows", type=_rows, default=dict(ROWS), metavar="NAME,...", help=f"{', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a smoke test of the smallest sizes; numbers mean little")
    parser.add_argument("--no-check", action="store_true", help="exit with 0 even if a goal is not met")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="also write the page to FILE, and the plot to the same folder"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the rows, print the page. Return 1 if a goal is not met."""
    given = sys.argv[1:] if argv is None else list(argv)
    options = _parser().parse_args(given)
    command, facts = shlex.join(["python", "-m", "benchmarks.sweep", *given]), machine()
    text, is_missed = "", False
    for measured in measure(options.rows, options.quick, lambda line: print(line, file=sys.stderr, flush=True)):
        image = options.write and options.write.with_name(f"{options.write.stem}_growth.png")
        name = image.name if image and measured.figure else ""
        text = page(measured.lines, measured.sections, command, facts, name)
        is_missed = any(line.is_missed for line in measured.lines)
        if options.write:  # after each row: an interrupted measurement keeps what it has
            options.write.parent.mkdir(parents=True, exist_ok=True)
            options.write.write_text(text, encoding="utf-8")
            if name and measured.figure:
                measured.figure.savefig(image, dpi=120)
    Console(width=140).print(Markdown(text))
    return int(is_missed and not options.no_check)


if __name__ == "__main__":
    sys.exit(main())
