"""Remedies, proven: each as a paired counterfactual of a logged run, beside a random change that should do nothing.

All cells train the same seeds, so they see the same splits and the same batches; differences are taken seed by seed.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.arrays import Array
from pipeline.analysis.comparisons import PairedDifference, paired
from pipeline.analysis.expectation import expect
from pipeline.analysis.remedies import Remedy, remedies
from pipeline.config import schema as configs
from pipeline.errors import ConfigError
from pipeline.progress import bars
from pipeline.runs.execute import execute
from pipeline.runs.result import RunResult
from pipeline.sweeps.plan import source_tags, tracking_of
from pipeline.sweeps.summary import share, summarise, verdict_of, where
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import CONFIG_FILE
from pipeline.training.prepare import prepare_run

LEAST = 5  # replicates: fewer make no interval worth having
AS_IT_WAS = "as it was"
DECADES = "decades_lost_per_layer_delta_rms_start"
SCORES = ("final_accuracy_test", "final_r2_test")


@dataclass(frozen=True)
class RemedyTrial:
    """What a change did: differences to the run as it was, over the same seeds.

    Attributes:
        decades: of the size of the decades lost per layer, |after| − |before|: negative is better.
        score: of test accuracy or R².
    """

    remedy: Remedy
    outcome: RunResult
    decades: PairedDifference | None
    score: PairedDifference | None

    def told(self) -> str:
        """In a few words, what is proven: of the flow of gradients, and of the score."""
        effects = [("flow", self.decades, -1), ("score", self.score, 1)]
        told = [f"{name} {_effect(d, sign)}" for name, d, sign in effects if d is not None and np.isfinite(d.low)]
        proven = [text for text in told if not text.endswith("same")]
        return ", ".join(proven) or ("no difference can be told" if told else "cannot be told")


def _effect(d: PairedDifference, better: int) -> str:
    low, high = sorted((better * d.low, better * d.high))
    if d.spread <= 1e-12 * abs(d.mean):
        return "same"  # the same difference in every seed: an interval without width proves nothing
    if low > 0:
        return "better"
    return "worse" if high < 0 else "same"


def prescribe(run_id: str, tracking: TrackingConfig, allowed: Collection[str], quiet: bool, console: Console) -> int:
    """Try the remedies for a logged run's verdict; returns the exit code, 1 if a cell failed.

    Raises:
        ConfigError: no such run, or a config that does not stand up.
    """
    tracking.existing_uri()
    store = Store.open(tracking)
    found = store.find(run_id)
    node = LoggedRun.from_store(store, found).raw_config()
    if not isinstance(node.get("replicates"), int):
        raise ConfigError(f"{CONFIG_FILE} of run {run_id}: replicates must be an integer")
    node["replicates"] = max(node["replicates"], LEAST)
    run = prepare_run(configs.build(node, configs.OWN_PACKAGES | set(allowed)))
    experiment = tracking_of(node).experiment if "tracking" in node else tracking.experiment
    store = Store.open(TrackingConfig(tracking.uri, experiment))
    sweep_id = f"prescribe-{uuid.uuid4().hex[:8]}"
    tags = {"sweep": sweep_id, "kind": "run", "prescribed_for": found.info.run_id, **source_tags([])}
    with bars(2, quiet) as shown:
        before = execute(node, store, AS_IT_WAS, {"change": AS_IT_WAS}, tags, shown)
        if before.verdict is None:
            raise ConfigError(
                f"RUN={run_id}: has no verdict to act on; it needs delta_rms and two hidden layers or more"
            )
        proposed = remedies(before.verdict, run.config, expect(run))
        if not proposed:
            console.print(f"nothing to prescribe: {verdict_of(before)}. {before.paragraph}", highlight=False)
            return 0
        cells = [*proposed, control(node)]
        outcomes = [execute(r.applied(node), store, r.name, {"change": r.name}, tags, shown) for r in cells]
    proofs = [prove(r, before, o) for r, o in zip(cells, outcomes, strict=True)]
    pages = {"prescription.md": markdown(before, proofs)}
    summary_id = summarise(store, "prescribe", sweep_id, [before, *outcomes], pages)
    report(console, before, proofs)
    where(console, store, share(store, sweep_id, [before, *outcomes]), "charts of its runs")
    where(console, store, store.run_link(summary_id, "/artifacts/prescription.md"), "its summary")
    return int(any(o.status == "FAILED" for o in (before, *outcomes)))


def control(node: Mapping[str, Any]) -> Remedy:
    """A random change as large as one might make by chance: a learning rate within a quarter of the old one."""
    rng = np.random.default_rng(np.random.SeedSequence(int(node["seed"]), spawn_key=(4,)))
    factor = float(np.exp(rng.uniform(-0.22, 0.22)))
    rate = float(f"{float(node['optimizer']['learning_rate']) * factor:.4g}")
    return Remedy(
        "control: random change", f"optimizer.learning_rate={rate:g}", {"optimizer.learning_rate": rate}, "none: chance"
    )


def prove(remedy: Remedy, before: RunResult, after: RunResult) -> RemedyTrial:
    """The paired differences of one change."""
    score = next((s for s in SCORES if s in before.values and s in after.values), None)
    return RemedyTrial(
        remedy,
        after,
        _paired(before.values.get(DECADES), after.values.get(DECADES), size=True),
        _paired(before.values.get(score or ""), after.values.get(score or ""), size=False),
    )


def _paired(a: Array | None, b: Array | None, size: bool) -> PairedDifference | None:
    if a is None or b is None:
        return None
    return paired(np.abs(a), np.abs(b)) if size else paired(a, b)


def _difference(d: PairedDifference | None) -> str:
    if d is None or not np.isfinite(d.mean):
        return "–"
    interval = f" [{d.low:+.3g}, {d.high:+.3g}]" if np.isfinite(d.low) else ""
    return f"{d.mean:+.3g}{interval}"


def _mean(outcome: RunResult, keys: tuple[str, ...]) -> str:
    key = next((k for k in keys if k in outcome.headline), None)
    return f"{float(outcome.headline[key].mean):.3g}" if key else "–"


HEADS = ("change", "why", "decades per layer", "difference of size", "test score", "difference", "verdict", "effect")


def _rows(before: RunResult, proofs: list[RemedyTrial]) -> list[list[str]]:
    first = [AS_IT_WAS, "", _mean(before, (DECADES,)), "", _mean(before, SCORES), "", verdict_of(before), ""]
    return [
        first,
        *(
            [
                p.remedy.name,
                p.remedy.reason,
                _mean(p.outcome, (DECADES,)),
                _difference(p.decades),
                _mean(p.outcome, SCORES),
                _difference(p.score),
                verdict_of(p.outcome),
                p.told(),
            ]
            for p in proofs
        ),
    ]


def markdown(before: RunResult, proofs: list[RemedyTrial]) -> str:
    """The prescription as a page."""
    lines = ["# Prescription", "", before.paragraph, ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _rows(before, proofs)]
    lines += [
        "",
        "Differences are to the run as it was, over the same seeds, with 95% t intervals; that of decades is of",
    ]
    lines += [
        "their size, so negative is better. In the config: " + "; ".join(f"`{p.remedy.overrides}`" for p in proofs)
    ]
    return "\n".join(lines) + "\n"


def report(console: Console, before: RunResult, proofs: list[RemedyTrial]) -> None:
    """The verdict and the table on the terminal."""
    console.print(before.paragraph, highlight=False, soft_wrap=True)
    shown = Table(
        title="paired over the same seeds: difference to the run as it was [95% interval]", title_justify="left"
    )
    for i, head in enumerate(HEADS):
        shown.add_column(head, justify="right" if i in (2, 3, 4, 5) else "left")
    for row in _rows(before, proofs):
        shown.add_row(*row)
    console.print(shown)
