"""The Python interface: the functions that the commands call, with results for a script or a notebook.

    from pipeline import load, run, runs, sweep

    result = run("activation=relu", "architecture.depth=20")
    result.verdict, result.explanation, result.records

Overrides are those of the command line. Invalid input raises :class:`pipeline.errors.ConfigError` before anything is
written: one line with the key, the value and what is allowed. The process keeps its signal handlers, its path, its
number of threads and matplotlib's backend.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline.api.results import Prescription as Prescription
from pipeline.api.results import Run as Run
from pipeline.api.results import Sweep as Sweep
from pipeline.api.sources import Measured, Source, Stored, Trained
from pipeline.config.compose import compose_sweep
from pipeline.config.schema import OWN_PACKAGES
from pipeline.errors import ConfigError as ConfigError
from pipeline.errors import RunError as RunError
from pipeline.profiling import OTHER, PROFILE
from pipeline.progress import bars
from pipeline.reports.figures.profiles import RunProfile
from pipeline.reproducibility.run_source import find
from pipeline.runs.result import UNTRACKED, RunResult
from pipeline.runs.untracked import TrainedCell, train_untracked
from pipeline.sweeps import remedy_trials
from pipeline.sweeps.diagnosis import diagnose as judge_table
from pipeline.sweeps.diagnosis import read_table
from pipeline.sweeps.plan import plan_sweep
from pipeline.sweeps.stacks import plan_stacks
from pipeline.sweeps.summary import frame
from pipeline.sweeps.sweep import SweepOptions, prepare_single, run_single, run_sweep
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.run_table import run_table
from pipeline.tracking.store import Store
from pipeline.tracking.tags import RECORDS_FILE
from pipeline.tracking.uri import TrackingConfig


def run(*overrides: str, config_dir: str | Path | None = None, force: bool = False, track: bool = True) -> Run:
    """Train one run, as ``gradvitals run`` does. Resume it if it was interrupted.

    Args:
        overrides: Overrides ``key=value`` of the config, as on the command line.
        config_dir: A folder with config groups of your own.
        force: Start a new run, even if one was interrupted.
        track: Whether to log the run in the store. Otherwise nothing is written, and the run is not in :func:`runs`.

    Returns:
        The run.

    Raises:
        ConfigError: A mistake in the config, before anything is written.
        RunError: The run failed.
    """
    with _as_a_command() as quiet:
        folder = None if config_dir is None else str(config_dir)
        if not track:
            with bars(1, quiet) as progress:
                (cell,) = train_untracked([prepare_single(overrides, folder)], progress)
            return _trained(cell)
        done = run_single(overrides, SweepOptions(force=force, quiet=quiet), folder)
        if done.result.error is not None:
            raise RunError(f"{done.result.name} (run {done.result.run_id}): {done.result.error}")
        return _stored(done.store, done.result)


def sweep(
    *overrides: str,
    config_dir: str | Path | None = None,
    jobs: int = 1,
    retry: bool = False,
    force: bool = False,
    track: bool = True,
) -> Sweep:
    """Run every combination of the swept values that is not finished yet, as ``gradvitals sweep`` does.

    Args:
        overrides: Overrides of the config, as on the command line: ``activation=relu,tanh``, ``experiment=depth``.
        config_dir: A folder with config groups of your own.
        jobs: Number of processes. Without tracking, all cells train in this one.
        retry: Run failed cells again.
        force: Run all cells again.
        track: Whether to log the runs in the store. Otherwise nothing is written.

    Returns:
        All runs. A run that failed has ``status`` FAILED and an ``error``.

    Raises:
        ConfigError: A mistake in any cell, before the first one runs.
    """
    with _as_a_command() as quiet:
        folder = None if config_dir is None else str(config_dir)
        if not track:
            if jobs != 1:
                raise ConfigError(f"jobs={jobs}: without tracking, all cells train in this process; must be 1")
            return _untracked_sweep(overrides, folder, quiet)
        done = run_sweep(overrides, SweepOptions(retry=retry, force=force, jobs=jobs, quiet=quiet), folder)
        results = [_stored(done.store, result) for result in done.results]
        return Sweep(done.sweep_id, frame(done.results), results, _profiles(done.results))


def load(run_id: str | Path, *, uri: str | None = None, allow: Collection[str] = ()) -> Run:
    """Return a run of the store, or of a folder that ``gradvitals export`` wrote.

    Args:
        run_id: Its id, the first 8 or more characters of it, or the folder.
        uri: The store, if it is not the project's own.
        allow: Packages of your own that its config may name.

    Raises:
        ConfigError: There is no such run, or it has no readable records.
    """
    logged = find(str(run_id), _tracking(uri), required=(RECORDS_FILE,))
    return _logged(logged, OWN_PACKAGES | set(allow))


def runs(*parameters: str, sweep: str | None = None, uri: str | None = None, **more: Any) -> pd.DataFrame:
    """Return a table of all runs in the store that match.

    Args:
        parameters: ``key=value`` pairs that a run's parameters must have, such as ``"architecture.depth=20"``.
        sweep: The sweep that the runs must belong to.
        uri: The store, if it is not the project's own.
        more: Parameters whose names have no dot, such as ``activation="relu"``.

    Returns:
        One row for each run, oldest first: run_id, name, status, started, sweep, verdict, decades with their interval,
        final costs and scores, and all parameters.

    Raises:
        ConfigError: There is no store, or no run has a parameter of that name.
    """
    wanted: dict[str, Any] = dict(more)
    for text in parameters:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"{text}: must be key=value")
        wanted[key] = value
    tracking = _tracking(uri)
    tracking.existing_uri()
    return run_table(Store.open(tracking), sweep, wanted)


def prescribe(run: Run | str, *, uri: str | None = None, allow: Collection[str] = ()) -> Prescription:
    """Try the remedies for a logged run's verdict over the same seeds, as ``gradvitals prescribe`` does.

    Args:
        run: The run, or its id.
        uri: The store, if it is not the project's own.
        allow: Packages of your own that its config may name.

    Returns:
        The trials; its table is empty if there is nothing to prescribe.

    Raises:
        ConfigError: There is no such run in the store, or it has no verdict.
        RunError: The baseline failed.
    """
    run_id = run.run_id if isinstance(run, Run) else run
    if run_id is None:
        raise ConfigError(f"{run}: is not tracked; remedies are tried for a run of the store")
    with _as_a_command() as quiet:
        done = remedy_trials.prescribe(run_id, _tracking(uri), allow, quiet)
    if done.baseline.error is not None:
        raise RunError(f"{done.baseline.name} (run {done.baseline.run_id}): {done.baseline.error}")
    trusted = OWN_PACKAGES | set(allow)
    results = [_stored(done.store, trial.result, trusted) for trial in done.trials]
    return Prescription(_stored(done.store, done.baseline, trusted), remedy_trials.frame(done.trials), results)


def diagnose(table: pd.DataFrame | str | Path, *, name: str = "", track: bool = True, uri: str | None = None) -> Run:
    """Judge a network that was trained elsewhere, from a table of measurements, as ``gradvitals diagnose`` does.

    Args:
        table: One row for each step, layer and replicate, with the columns step, layer, replicate, delta_rms,
            gradient_norm ... that ``docs/how-to/python.md`` lists; or a parquet or CSV file with such a table.
        name: Name of the run.
        track: Whether to log it as a run of the store.
        uri: The store, if it is not the project's own.

    Returns:
        A run without a config and a network: records, verdict, explanation, scores and figure.

    Raises:
        ConfigError: The table cannot be judged; one line names the column, the row and what is allowed.
    """
    measured = read_table(Path(table)) if isinstance(table, str | Path) else table
    done = judge_table(measured, name, _tracking(uri) if track else None)
    if done.store is not None:
        return _stored(done.store, done.result)
    return _in_memory(done.result, Measured(done.result, done.summary))


@contextmanager
def _as_a_command() -> Iterator[bool]:
    """Compute as a command does, with one thread; yield whether progress bars are hidden."""
    PROFILE.restart(OTHER)
    with threadpool_limits(1):
        yield bool(os.environ.get("CI"))


def _tracking(uri: str | None) -> TrackingConfig:
    return TrackingConfig(uri, None)


def _untracked_sweep(overrides: Sequence[str], config_dir: str | None, quiet: bool) -> Sweep:
    plan = plan_sweep(compose_sweep(overrides, config_dir), quiet)
    with bars(len(plan.jobs), quiet) as progress:
        cells = [cell for stack in plan_stacks(plan.jobs) for cell in train_untracked(stack, progress)]
    place = {id(job): number for number, job in enumerate(plan.jobs)}
    cells.sort(key=lambda cell: place[id(cell.job)])
    results = [cell.result for cell in cells]
    return Sweep(None, frame(results), [_trained(cell) for cell in cells], _profiles(results))


def _trained(cell: TrainedCell) -> Run:
    return _in_memory(cell.result, Trained(cell))


def _in_memory(result: RunResult, source: Source) -> Run:
    return Run(result.name, None, result.status, result.verdict_words, result.swept, None, source)


def _stored(store: Store, result: RunResult, trusted: Collection[str] | None = None) -> Run:
    """Return a run whose result is known. It is read from the store, as :func:`load` reads it."""
    run_id = None if result.run_id in ("", UNTRACKED) else result.run_id
    if run_id is None or result.error is not None:
        return Run(result.name, run_id, result.status, "", result.swept, result.error)
    return _logged(LoggedRun.from_store(store, store.find(run_id)), trusted, result.swept)


def _logged(logged: LoggedRun, trusted: Collection[str] | None, swept: Mapping[str, str] | None = None) -> Run:
    source = Stored(logged, trusted)
    return Run(logged.name, logged.run_id, logged.status, logged.verdict, swept or {}, None, source)


def _profiles(results: Sequence[RunResult]) -> list[RunProfile]:
    return [RunProfile(r.name, r.swept, r.profile) for r in results]
