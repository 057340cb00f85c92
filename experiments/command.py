"""The command ``experiment``: run published results again, and print their claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pipeline.cli import cores, print_lines, quiet, show, usage
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from experiments.experiment import Experiment
    from experiments.runner import ExperimentResult


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from experiments.experiment import names

    return [name for name in names() if name.startswith(incomplete)]


@click.command(epilog=usage("seconds to minutes; with --slow and --all longer", "experiment chain"))
@click.argument("name", required=False, shell_complete=_complete)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--all", "run_all", is_flag=True, help="Run all experiments and write the catalogue in docs/experiments.")
@click.option("--slow", is_flag=True, help="Run the slow variants too.")
@click.option("--jobs", type=int, metavar="N", help="Processes at a time; by default the number of cores.")
@click.option("--write", is_flag=True, help="Write the pages and figures of the experiment, as in docs/theory.md.")
@click.option("--force", is_flag=True, help="Replace files that gradvitals did not write.")
def experiment(
    name: str | None, overrides: Sequence[str], run_all: bool, slow: bool, jobs: int | None, write: bool, force: bool
) -> int:
    """Run a published result again and print its claims. NAME is a folder of experiments/, or the path of your own."""
    from experiments.catalogue import check_catalogue, write_catalogue
    from experiments.experiment import load, names
    from experiments.runner import applicable, run_experiment, write_pages

    def run_and_print(chosen: Experiment, overrides: Sequence[str]) -> ExperimentResult:
        result = run_experiment(chosen, overrides, slow, quiet(), cores() if jobs is None else jobs)
        show(result)
        if write:
            print_lines(f"wrote {path}" for path in write_pages(result, slow, force=force))
        return result

    if run_all:
        overrides = [*([name] if name else []), *overrides]
        check_catalogue(names(), force=force)
        experiments = [load(n) for n in names()]
        results = [run_and_print(one, applicable(one, overrides)) for one in experiments]
        show(write_catalogue(results, slow, force=force))
        return max(result.exit_code for result in results)
    if not name:
        raise ConfigError(f"NAME is missing; allowed: {', '.join(names())}, or a folder with claims.yaml")
    return run_and_print(load(name), overrides).exit_code
