"""``python -m experiments NAME``: run a published result's experiment and print its claims."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from pipeline.cli import console, execute, quiet
from pipeline.errors import ConfigError


@click.command()
@click.argument("name", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--all", "every", is_flag=True, help="Run all experiments and write the catalogue in docs/experiments.")
@click.option("--slow", is_flag=True, help="Run the slow variants too.")
def command(name: str | None, overrides: Sequence[str], every: bool, slow: bool) -> int:
    """Run the experiment NAME, a folder of experiments/ or the path of your own, and print its claims."""
    from experiments.runner import experiment, experiments, names

    if every:
        return experiments([*([name] if name else []), *overrides], slow, quiet(), console())
    if not name:
        raise ConfigError(f"NAME is missing; allowed: {', '.join(names())}, or a folder with claims.yaml")
    return experiment(name, overrides, slow, quiet(), console())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return execute(command, argv, "python -m experiments")


if __name__ == "__main__":
    sys.exit(main())
