"""``python -m experiments NAME``: run one experiment and print its claims."""

from __future__ import annotations

import sys

from pipeline.__main__ import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pipeline.cli import cores, execute, print_lines, quiet, show
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from experiments.experiment import Experiment
    from experiments.runner import ExperimentResult


@click.command()
@click.argument("name", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--all", "run_all", is_flag=True, help="Run all experiments and write the catalogue in docs/experiments.")
@click.option("--slow", is_flag=True, help="Run the slow variants too.")
@click.option("--jobs", type=int, metavar="N", help="Processes at a time; by default the number of cores.")
@click.option("--write", is_flag=True, help="Write the pages and figures of the experiment, as in docs/theory.md.")
@click.option("--force", is_flag=True, help="Replace files that gradvitals did not write.")
def command(
    name: str | None, overrides: Sequence[str], run_all: bool, slow: bool, jobs: int | None, write: bool, force: bool
) -> int:
    """Run the experiment NAME, a folder of experiments/ or the path of your own, and print its claims."""
    from experiments.catalogue import check_catalogue, write_catalogue
    from experiments.experiment import load, names
    from experiments.runner import applicable, run_experiment, write_pages

    def run_and_print(experiment: Experiment, overrides: Sequence[str]) -> ExperimentResult:
        result = run_experiment(experiment, overrides, slow, quiet(), cores() if jobs is None else jobs)
        show(result)
        if write:
            print_lines(f"wrote {path}" for path in write_pages(result, slow, force=force))
        return result

    if run_all:
        overrides = [*([name] if name else []), *overrides]
        check_catalogue(names(), force=force)
        experiments = [load(n) for n in names()]
        results = [run_and_print(experiment, applicable(experiment, overrides)) for experiment in experiments]
        show(write_catalogue(results, slow, force=force))
        return max(result.exit_code for result in results)
    if not name:
        raise ConfigError(f"NAME is missing; allowed: {', '.join(names())}, or a folder with claims.yaml")
    return run_and_print(load(name), overrides).exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return execute(command, argv, "python -m experiments")


if __name__ == "__main__":
    sys.exit(main())
