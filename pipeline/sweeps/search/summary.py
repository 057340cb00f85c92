"""The summary of a search: its table, its figures, its own run in the store, and links."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial
from rich.table import Table

from pipeline.sweeps.search.figures import HISTORY, search_figures
from pipeline.sweeps.search.space import short
from pipeline.sweeps.search.study import Study, result_of, slot_of
from pipeline.sweeps.summary import link_lines
from pipeline.tracking import chart_view
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.run_names import short_key
from pipeline.tracking.store import Store
from pipeline.tracking.tags import ATTEMPTS_TAG, attempts_of, in_sweep
from pipeline.wording import command, counted

SHOWN = 12  # trials in tables; the file has all
SETTLED_TAG = "settled"
TABLE = "search.csv"


def frame(trials: Sequence[FrozenTrial], metric: str) -> pd.DataFrame:
    """Return one row for each trial, in order of slot."""
    rows: list[dict[str, Any]] = [
        {"trial": slot_of(t), **t.params, metric: t.value, "state": t.state.name}
        | {key: value for key, value in asdict(result_of(t)).items() if key != "value"}
        for t in trials
    ]
    return pd.DataFrame(rows)


def log_search_summary(store: Store, name: str, study: Study, again: Sequence[str]) -> str:
    """Log figures, table and description of a search in a run of its own; return the run's id.

    Args:
        store: The store.
        name: Name of the search.
        study: The study.
        again: The overrides that run the best trial's config.
    """
    locks, lock = RunLocks.of(store), f"summary-{study.id}"
    trials = study.settled()
    with locks.acquire(lock, timeout=-1):
        existing = store.search(f"tags.sweep_summary = '{study.id}'")
        if (
            existing
            and existing[0].info.status != "RUNNING"
            and existing[0].data.tags.get(SETTLED_TAG) == str(len(trials))
        ):
            return str(existing[0].info.run_id)
        attempt = attempts_of(existing[0].data.tags) + 1 if existing else 0
        tags = {"sweep_summary": study.id, "kind": "sweep", **locks.tags(lock)}
        log = store.resume(existing[0].info.run_id) if existing else store.start(f"search {name}", tags)
        with log:
            log.tags({ATTEMPTS_TAG: str(attempt), **locks.tags(lock)})
            metric, best, importances = study.config.metric, study.best(), study.importances()
            log.text(frame(trials, study.config.label).to_csv(index=False), TABLE)
            for file_name, figure in search_figures(study.optuna_study, list(importances), study.config.label).items():
                log.figure(figure, file_name)
            ends = Counter(t.state.name.lower() for t in trials)
            for state in ("complete", "pruned", "fail"):
                log.metric(f"trials_{state}", ends[state], attempt)
            if best is not None and best.value is not None:
                log.metric(f"best_{metric}", best.value, attempt)
                log.tags({f"best.{key}": short(value) for key, value in best.params.items()})
            log.tags({"mlflow.note.content": markdown(name, study, trials, importances, again)})
            log.tags({SETTLED_TAG: str(len(trials))})
            log.end("FINISHED")
    return log.run_id


def ranked(trials: Sequence[FrozenTrial], direction: str) -> list[FrozenTrial]:
    """Return the trials, the best first; those without a value last."""
    sign = -1.0 if direction == "maximise" else 1.0
    return sorted(trials, key=lambda t: (t.value is None, sign * float(t.value or 0.0)))


def ending(trial: FrozenTrial) -> str:
    """Return how a trial ended, in words."""
    r = result_of(trial)
    if r.error:
        return f"failed: {r.error}"
    if r.pruned:
        return f"pruned: {r.pruned}"
    return f"{r.diverged} diverged" if r.diverged else "finished"


def run_again(overrides: Sequence[str]) -> str:
    """Return the command that runs a config again, without the program."""
    return f"run {shlex.join(overrides)}"


def markdown(
    name: str, study: Study, trials: Sequence[FrozenTrial], importances: dict[str, float], again: Sequence[str]
) -> str:
    """Return the description at the top of the summary's page in MLflow."""
    c, best = study.config, study.best()
    lines = [f"**Search {name}** ({study.id}): {counted(len(trials), 'trial')} by {c.sampler} to {c.aim}.", ""]
    if best is not None and best.value is not None:
        values = ", ".join(f"{key} = {short(value)}" for key, value in best.params.items())
        lines += [f"**Best: {best.value:.6g}** with {values}.", "", f"`{command(run_again(again))}`", ""]
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
    lines += ["", f"All trials: `{TABLE}`{more}. Their runs: filter `{in_sweep(study.id)}`. The figure: `{HISTORY}`."]
    return "\n".join(lines)


def _cells(trial: FrozenTrial, keys: Sequence[str] | Any) -> list[str]:
    value = "–" if trial.value is None else f"{trial.value:.4g}"
    params = [short(trial.params[key]) if key in trial.params else "–" for key in keys]
    return [str(slot_of(trial)), *params, value, result_of(trial).verdict or "–", ending(trial)]


def trial_table(study: Study) -> Table:
    """Return the best trials for the terminal, the best first."""
    config = study.config
    table = Table(title=f"study {study.id}: to {config.aim}, the best first", title_justify="left")
    for head in ("trial", *(short_key(key) for key in config.space), config.label, "verdict", "ended"):
        table.add_column(head)
    for trial in ranked(study.settled(), config.direction)[:SHOWN]:
        table.add_row(*_cells(trial, config.space))
    return table


def count_trials(study: Study) -> str:
    """Return how many trials have a value, were pruned and failed, in one line."""
    trials = study.settled()
    ends = Counter(t.state.name for t in trials)
    ended = f"{ends['COMPLETE']} with a value, {ends['PRUNED']} pruned, {ends['FAIL']} failed"
    return f"{counted(len(trials), 'trial')}: {ended}"


def search_links(store: Store, study: Study, summary_id: str) -> list[str]:
    """Save a view of the charts; return lines with the addresses of the view and of the summary."""
    score = "r2/validation" if "r2" in study.config.metric else "accuracy/validation"
    charts = store.save_chart_view(study.id, chart_view.sweep_view(in_sweep(study.id), score))
    return [
        *link_lines(store, charts, "charts of its runs"),
        *link_lines(store, store.run_link(summary_id, f"/artifacts/{HISTORY}"), "its summary"),
    ]
