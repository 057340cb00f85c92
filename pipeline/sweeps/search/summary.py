"""A search at its end: the table, the pictures, its own run in the store, and where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from pipeline.sweeps.search import figure
from pipeline.sweeps.search.space import short
from pipeline.sweeps.search.study import Study, position_of, result_of
from pipeline.sweeps.summary import where
from pipeline.tracking import chart_view
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.run_names import short_key
from pipeline.tracking.store import Store
from pipeline.tracking.tags import ATTEMPTS_TAG, in_sweep

SHOWN = 12  # trials in tables for people; the file has all
SETTLED_TAG = "settled"
PICTURE, TABLE = "search.png", "search.csv"


def table(trials: Sequence[FrozenTrial], metric: str) -> pd.DataFrame:
    """One row a trial, in the order in which they were asked for."""
    rows: list[dict[str, Any]] = [
        {"trial": position_of(t), **t.params, metric: t.value, "state": t.state.name}
        | {key: value for key, value in asdict(result_of(t)).items() if key != "value"}
        for t in trials
    ]
    return pd.DataFrame(rows)


def summarise(store: Store, name: str, study: Study, again: Sequence[str]) -> str:
    """The search's own run, written anew if trials have come since; returns its id.

    Args:
        again: the overrides that run the best trial's config.
    """
    locks, lease = RunLocks.of(store), f"summary-{study.id}"
    trials = study.settled()
    with locks.acquire(lease, timeout=-1):
        before = store.search(f"tags.sweep_summary = '{study.id}'")
        if before and before[0].info.status != "RUNNING" and before[0].data.tags.get(SETTLED_TAG) == str(len(trials)):
            return str(before[0].info.run_id)
        times = int(before[0].data.tags.get(ATTEMPTS_TAG, "0")) + 1 if before else 0
        tags = {"sweep_summary": study.id, "kind": "sweep", **locks.tags(lease)}
        log = store.resume(before[0].info.run_id) if before else store.start(f"search {name}", tags)
        with log:
            log.tags({ATTEMPTS_TAG: str(times), **locks.tags(lease)})
            metric, best, importances = study.config.metric, study.best(), study.importances()
            log.text(table(trials, study.config.label).to_csv(index=False), TABLE)
            drawn = figure.picture(trials, study.config, importances)
            if drawn is not None:
                log.figure(drawn, PICTURE)
            ends = Counter(t.state.name.lower() for t in trials)
            for state in ("complete", "pruned", "fail"):
                log.metric(f"trials_{state}", ends[state], times)
            if best is not None and best.value is not None:
                log.metric(f"best_{metric}", best.value, times)
                log.tags({f"best.{key}": short(value) for key, value in best.params.items()})
            log.tags({"mlflow.note.content": markdown(name, study, trials, importances, again)})
            log.tags({SETTLED_TAG: str(len(trials))})
            log.end("FINISHED")
    return log.run_id


def ranked(trials: Sequence[FrozenTrial], direction: str) -> list[FrozenTrial]:
    """Best first; those without a value last."""
    sign = -1.0 if direction == "maximise" else 1.0
    return sorted(trials, key=lambda t: (t.value is None, sign * float(t.value or 0.0)))


def ending(trial: FrozenTrial) -> str:
    """How a trial ended, in words."""
    r = result_of(trial)
    if r.error:
        return f"failed: {r.error}"
    if r.pruned:
        return f"pruned: {r.pruned}"
    return f"{r.diverged} diverged" if r.diverged else "finished"


def markdown(
    name: str, study: Study, trials: Sequence[FrozenTrial], importances: dict[str, float], again: Sequence[str]
) -> str:
    """The description at the top of the summary's page."""
    c, best = study.config, study.best()
    lines = [f"**Search {name}** ({study.id}): {len(trials)} trials by {c.sampler} to {c.aim}.", ""]
    if best is not None and best.value is not None:
        found = ", ".join(f"{key} = {short(value)}" for key, value in best.params.items())
        lines += [f"**Best: {best.value:.6g}** with {found}.", "", f'`make run ARGS="{" ".join(again)}"`', ""]
    else:
        lines += ["No trial has a value.", ""]
    if any(importances.values()):
        shares = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
        lines += [f"Share of the variation (functional ANOVA): {shares}.", ""]
    heads = ["trial", *(short_key(key) for key in c.space), c.label, "verdict", "ended"]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(t, c.space)) + " |"
        for t in ranked(trials, c.direction)[:SHOWN]
    ]
    more = f"; the best {SHOWN} are shown" if len(trials) > SHOWN else ""
    lines += ["", f"All trials: `{TABLE}`{more}. Their runs: filter `{in_sweep(study.id)}`. The picture: `{PICTURE}`."]
    return "\n".join(lines)


def _cells(trial: FrozenTrial, keys: Sequence[str] | Any) -> list[str]:
    value = "–" if trial.value is None else f"{trial.value:.4g}"
    params = [short(trial.params[key]) if key in trial.params else "–" for key in keys]
    return [str(position_of(trial)), *params, value, result_of(trial).verdict or "–", ending(trial)]


def report(console: Console, store: Store, study: Study, summary_id: str, again: Sequence[str]) -> None:
    """The best trials in the terminal, how the others ended, and where to look."""
    c, trials, best = study.config, study.settled(), study.best()
    shown = Table(title=f"study {study.id}: to {c.aim}, the best first", title_justify="left")
    for head in ("trial", *(short_key(key) for key in c.space), c.label, "verdict", "ended"):
        shown.add_column(head)
    for t in ranked(trials, c.direction)[:SHOWN]:
        shown.add_row(*(cell.replace("[", "\\[") for cell in _cells(t, c.space)))
    console.print(shown)
    ends = Counter(t.state.name for t in trials)
    console.print(
        f"{len(trials)} trials: {ends['COMPLETE']} with a value, {ends['PRUNED']} pruned, {ends['FAIL']} failed",
        highlight=False,
    )
    if best is not None:
        console.print(f'the best again: make run ARGS="{" ".join(again)}"', highlight=False, soft_wrap=True)
    else:
        console.print("no trial has a value", highlight=False)
    score = "r2/test" if "r2" in c.metric else "accuracy/test"
    charts = store.save_chart_view(study.id, chart_view.sweep_view(in_sweep(study.id), score))
    where(console, store, charts, "charts of its runs")
    where(console, store, store.run_link(summary_id, f"/artifacts/{PICTURE}"), "its summary")
