"""One run from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import yaml
from rich.console import Console
from rich.table import Table

from pipeline import config as configs
from pipeline import summary
from pipeline.composing import compose_run
from pipeline.execution import execute
from pipeline.naming import run_name
from pipeline.progress import bars
from pipeline.sweep import source_tags, tracking_of, where
from pipeline.tracking import Store
from pipeline.training import ready


def single(overrides: Sequence[str], config_dir: str | None, quiet: bool, console: Console) -> int:
    """Train and log one run; returns the exit code, 1 if it failed.

    Raises:
        ConfigError: a mistake in the config, before anything is written.
    """
    node = compose_run(overrides, config_dir)
    ready(configs.build(node))
    store = Store.open(tracking_of(node))
    chosen = dict(
        o.split("=", 1) for o in overrides if "=" in o and not o.startswith(("experiment=", "hydra.", "tracking"))
    )
    name = run_name({k.lstrip("+"): v for k, v in chosen.items()}, node.get("name"))
    with bars(1, quiet) as shown:
        outcome = execute(node, store, name, {}, {"kind": "run", **source_tags(overrides)}, shown)
    if outcome.error:
        console.print(f"[red]failed[/red] {name} (run {outcome.run_id}): {outcome.error}", highlight=False)
    else:
        table = Table("quantity", "mean [95% interval] over replicates", title=name, title_justify="left")
        for key, value in outcome.headline.items():
            table.add_row(key, summary.show(value))
        console.print(table)
    for divergence in outcome.divergences:
        console.print(f"[yellow]diverged[/yellow] {divergence.finding.sentence()}", highlight=False, soft_wrap=True)
    console.print(f"run it again: make reproduce RUN={outcome.run_id}", highlight=False)
    where(console, store, store.run_link(outcome.run_id), "its page")
    return 0 if outcome.error is None else 1


def show(overrides: Sequence[str], config_dir: str | None) -> int:
    """Print the resolved config, checked, as YAML."""
    node = compose_run(overrides, config_dir)
    configs.build(node)
    yaml.safe_dump(node, sys.stdout, sort_keys=False)
    return 0
