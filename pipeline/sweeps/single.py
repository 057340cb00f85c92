"""One run from the command line."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence

import yaml
from rich.console import Console
from rich.table import Table

from pipeline.analysis import summary
from pipeline.config import schema as configs
from pipeline.config.compose import compose_run
from pipeline.config.schema import checkpoint_config
from pipeline.progress import bars
from pipeline.reproducibility.fingerprint import code_digest, fingerprint
from pipeline.runs.cell import CellJob, CellPolicy, close_stale_runs, run_cell
from pipeline.runs.execute import execute
from pipeline.runs.limits import Limits
from pipeline.sweeps.plan import source_tags, tracking_of
from pipeline.sweeps.summary import where
from pipeline.tracking.run_names import run_name
from pipeline.tracking.store import Store
from pipeline.training.prepare import prepare_run


def single(
    overrides: Sequence[str],
    config_dir: str | None,
    quiet: bool,
    console: Console,
    force: bool = False,
    limits: Limits | None = None,
) -> int:
    """Train and log one run, or go on with the same one if it was interrupted; returns the exit code, 1 if it failed.

    Args:
        force: begin a new run whatever was interrupted.
        limits: of its time and memory.

    Raises:
        ConfigError: a mistake in the config, before anything is written.
    """
    node = compose_run(overrides, config_dir)
    cell = fingerprint(node, prepare_run(configs.build(node)).data.digest)
    checkpoint_config(node)
    store = Store.open(tracking_of(node))
    close_stale_runs(store)
    chosen = dict(
        o.split("=", 1) for o in overrides if "=" in o and not o.startswith(("experiment=", "hydra.", "tracking"))
    )
    name = run_name({k.lstrip("+"): v for k, v in chosen.items()}, node.get("name"))
    tags = {"kind": "run", **source_tags(overrides)}
    policy = CellPolicy(command=uuid.uuid4().hex, force=force, repeat=True, limits=limits or Limits())
    with bars(1, quiet) as shown:
        settled = run_cell(CellJob(name, {}, node, cell, code_digest(node), tags), store, policy, shown)
        outcome = settled.outcome if settled else execute(node, store, name, {}, tags, shown)
    if settled and settled.decision == "goes on":
        console.print("went on with a run that was interrupted (FORCE=1 begins a new one)", highlight=False)
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
