"""Try remedies for a logged run, each as a paired counterfactual; a random change serves as the control.

All cells train the same seeds, so they see the same splits and batches. Differences are computed seed by seed.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from engine.arrays import Array
from pipeline.analysis.comparisons import PairedDifference, paired
from pipeline.analysis.expectation import expect
from pipeline.analysis.remedies import Remedy, remedies
from pipeline.config.schema import OWN_PACKAGES
from pipeline.errors import ConfigError
from pipeline.progress import bars
from pipeline.runs.job import RunOptions, prepare_cell
from pipeline.runs.result import RunResult
from pipeline.runs.stack import run_stack
from pipeline.sweeps.executor import SerialExecutor
from pipeline.sweeps.plan import source_tags, tracking_of
from pipeline.sweeps.stacks import plan_stacks
from pipeline.sweeps.summary import Extras, log_summary, summary_links, verdict_of
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import CONFIG_FILE, SWEEP_TAG
from pipeline.wording import comparison

LEAST_REPLICATES = 5  # fewer make no useful interval
BASELINE = "baseline"
DECADES = "decades_lost_per_layer_delta_rms_start"
SCORES = ("final_accuracy_test", "final_r2_test")
OTHER_SEEDS = 100_000  # more than a run has replicates
PAGE = "prescription.md"
MEANING = (
    "Differences are to the baseline, over the same seeds, with 95% t intervals. Decades per layer: log10 of δ in the "
    "last hidden layer over the first one, for each layer between. Their size should be near 0, so a negative "
    "difference of size is better."
)


@dataclass(frozen=True)
class RemedyTrial:
    """The effect of one change: differences to the baseline over the same seeds.

    Attributes:
        result: The run with the change.
        decades: Difference of the size of the decades lost per layer, |after| − |before|: negative is better.
        score: Difference of test accuracy or R².
    """

    remedy: Remedy
    result: RunResult
    decades: PairedDifference | None
    score: PairedDifference | None

    def effect(self) -> str:
        """Return in a few words what the trial shows about the gradient flow and the score."""
        differences = [("flow", self.decades, -1), ("score", self.score, 1)]
        effects = [
            f"{name} {_effect(d, sign)}" for name, d, sign in differences if d is not None and np.isfinite(d.low)
        ]
        proven = [text for text in effects if not text.endswith("same")]
        return ", ".join(proven) or ("no difference can be shown" if effects else "cannot be shown")


def _effect(d: PairedDifference, better: int) -> str:
    low, high = sorted((better * d.low, better * d.high))
    if d.spread <= 1e-12 * abs(d.mean):
        return "same"  # the same difference in every seed: an interval without width proves nothing
    if low > 0:
        return "better"
    return "worse" if high < 0 else "same"


@dataclass(frozen=True)
class Prescription:
    """The end of the remedy trials of a run.

    Attributes:
        baseline: The run without a change.
        trials: One for each remedy, and the control; empty if there is nothing to prescribe.
        links: Lines with the addresses of the charts and of the summary.
        store: The store of the runs.
    """

    baseline: RunResult
    trials: Sequence[RemedyTrial]
    links: Sequence[str]
    store: Store

    @property
    def exit_code(self) -> int:
        """1 if a run failed."""
        return int(any(r.status == "FAILED" for r in (self.baseline, *(t.result for t in self.trials))))

    def table(self) -> Table | None:
        """Return the trials; None if there is nothing to prescribe."""
        if not self.trials:
            return None
        table = Table(
            title="paired over the same seeds: difference to the baseline [95% interval]", title_justify="left"
        )
        for i, head in enumerate(HEADS):
            table.add_column(head, justify="right" if i in (2, 3, 4, 5) else "left")
        for row in _rows(self.baseline, self.trials):
            table.add_row(*row)
        return table

    def lines(self) -> list[str]:
        """Return the verdict on the baseline, and the links."""
        if self.baseline.error:
            return [f"failed: {self.baseline.name} (run {self.baseline.run_id}): {self.baseline.error}"]
        if not self.trials:
            return [f"nothing to prescribe: {verdict_of(self.baseline)}. {self.baseline.explanation}"]
        first = self.trials[0]
        compared = comparison(self.baseline.run_id[:8], first.result.run_id[:8])
        more = f"all differences of the baseline and '{first.remedy.name}': {compared}"
        return [self.baseline.explanation, MEANING, more, *self.links]


def _choices(overrides: Sequence[str]) -> dict[str, str]:
    """Return the values of overrides by the keys of the config that they set."""
    pairs = (text.partition("=") for text in overrides)
    return {key.rpartition("@")[2]: value for key, _, value in pairs}


def prescribe(run_id: str, tracking: TrackingConfig, allowed: Collection[str], quiet: bool) -> Prescription:
    """Try the remedies for a logged run's verdict.

    Args:
        run_id: Id of the run, or its first 8 or more characters.
        tracking: The store.
        allowed: Packages of the user's own that the logged config may name.
        quiet: Show no progress bars.

    Raises:
        ConfigError: No such run, an invalid config, or a run without a verdict.
    """
    tracking.existing_uri()
    store = Store.open(tracking)
    logged = store.find(run_id)
    recorded_run = LoggedRun.from_store(store, logged)
    raw_config = recorded_run.raw_config()
    if not isinstance(raw_config.get("replicates"), int):
        raise ConfigError(f"{CONFIG_FILE} of run {run_id}: replicates must be an integer")
    raw_config["replicates"] = max(raw_config["replicates"], LEAST_REPLICATES)
    recorded = tracking_of(raw_config) if "tracking" in raw_config else tracking
    store = Store.open(replace(recorded, uri=tracking.uri))
    sweep_id = f"prescribe-{logged.info.run_id[:8]}"  # also for an id given in part, and when it is repeated
    tags = {SWEEP_TAG: sweep_id, "kind": "run", "prescribed_for": logged.info.run_id, **source_tags([])}
    trusted = OWN_PACKAGES | set(allowed)
    with recorded_run.file_contents_hidden(raw_config):
        choices = {key: recorded_run.params[key] for key in raw_config if key in recorded_run.params}
        baseline_job = prepare_cell(raw_config, BASELINE, {"change": BASELINE}, tags, trusted, choices)
    with bars(2, quiet) as progress:
        options = RunOptions(
            command=uuid.uuid4().hex,
            force=True,
            metrics=recorded.metrics,
            figures=recorded.draws_figures(cells=1),  # a prescription has few cells
            parameters=recorded.parameters,
        )
        executor = SerialExecutor(store, options, progress)
        ((_, done),) = executor.map(run_stack, [[baseline_job]])
        baseline = done.result
        if baseline.verdict is None and baseline.error is None:
            raise ConfigError(
                f"run {run_id}: has no verdict to act on; it needs delta_rms and two hidden layers or more"
            )
        proposed = []
        if baseline.verdict is not None:
            proposed = remedies(baseline.verdict, baseline_job.run.config, expect(baseline_job.run))
        if not proposed:
            return Prescription(baseline, (), (), store)
        changes = [*proposed, control(raw_config)]
        jobs = []
        for change in changes:
            own = change.overrides.split()
            own_choices = {**choices, **_choices(own)}
            own_tags = {**tags, **source_tags(own)}
            applied = change.applied(raw_config)
            jobs.append(prepare_cell(applied, change.name, {"change": change.name}, own_tags, trusted, own_choices))
        with closing(executor.map(run_stack, plan_stacks(jobs))) as finished:
            by_name = {job.name: done.result for job, done in finished}
    results = [by_name[remedy.name] for remedy in changes]
    trials = [compare_to_baseline(r, baseline, result) for r, result in zip(changes, results, strict=True)]
    everything = [baseline, *results]
    extras = Extras(texts={PAGE: markdown(baseline, trials)})
    summary_id = log_summary(store, "prescribe", sweep_id, everything, extras)
    return Prescription(baseline, trials, summary_links(store, sweep_id, everything, summary_id, PAGE), store)


def control(raw_config: Mapping[str, Any]) -> Remedy:
    """Return a harmless change: a learning rate within a quarter of the old one, or other seeds if no step is made.

    Its name has its value, so that every result of it says what was changed.
    """
    if not (raw_config.get("steps") or raw_config.get("epochs")) or not raw_config["optimizer"]["learning_rate"]:
        seed = int(raw_config["seed"]) + OTHER_SEEDS
        return Remedy(f"control: seed {seed}", f"seed={seed}", {"seed": seed}, "none: chance")
    rng = np.random.default_rng(np.random.SeedSequence(int(raw_config["seed"]), spawn_key=(4,)))
    factor = float(np.exp(rng.uniform(-0.22, 0.22)))
    rate = float(f"{float(raw_config['optimizer']['learning_rate']) * factor:.4g}")
    return Remedy(
        f"control: learning rate {rate:g}",
        f"optimizer.learning_rate={rate:g}",
        {"optimizer.learning_rate": rate},
        "none: chance",
    )


def compare_to_baseline(remedy: Remedy, baseline: RunResult, result: RunResult) -> RemedyTrial:
    """Return the paired differences of one change."""
    score = next((s for s in SCORES if s in baseline.values and s in result.values), None)
    return RemedyTrial(
        remedy,
        result,
        _paired(baseline.values.get(DECADES), result.values.get(DECADES), size=True),
        _paired(baseline.values.get(score or ""), result.values.get(score or ""), size=False),
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


def _mean(result: RunResult, keys: tuple[str, ...]) -> str:
    key = next((k for k in keys if k in result.headline), None)
    return f"{float(result.headline[key].mean):.3g}" if key else "–"


HEADS = (
    "change",
    "why",
    "decades per layer",
    "difference of size",
    "test score",
    "difference",
    "gradient flow",
    "effect",
)


def _rows(baseline: RunResult, trials: Sequence[RemedyTrial]) -> list[list[str]]:
    first = [BASELINE, "", _mean(baseline, (DECADES,)), "", _mean(baseline, SCORES), "", verdict_of(baseline), ""]
    return [
        first,
        *(
            [
                t.remedy.name,
                t.remedy.reason,
                _mean(t.result, (DECADES,)),
                _difference(t.decades),
                _mean(t.result, SCORES),
                _difference(t.score),
                verdict_of(t.result),
                t.effect(),
            ]
            for t in trials
        ),
    ]


def frame(trials: Sequence[RemedyTrial]) -> pd.DataFrame:
    """Return one row for each trial: the change, its reason, its effect, and the differences with their intervals."""
    rows = []
    for trial in trials:
        row: dict[str, Any] = {"change": trial.remedy.name, "overrides": trial.remedy.overrides}
        row |= {"why": trial.remedy.reason, "verdict": verdict_of(trial.result), "effect": trial.effect()}
        for name, d in (("decades_per_layer", trial.decades), ("score", trial.score)):
            values = (np.nan,) * 3 if d is None else (d.mean, d.low, d.high)
            row |= {f"{name}_difference{end}": v for end, v in zip(("", "_low", "_high"), values, strict=True)}
        rows.append(row | {"run_id": trial.result.run_id})
    return pd.DataFrame(rows)


def markdown(baseline: RunResult, trials: Sequence[RemedyTrial]) -> str:
    """Return the prescription as a page."""
    lines = ["# Prescription", "", baseline.explanation, ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _rows(baseline, trials)]
    lines += ["", MEANING, "", "In the config: " + "; ".join(f"`{t.remedy.overrides}`" for t in trials)]
    return "\n".join(lines) + "\n"
