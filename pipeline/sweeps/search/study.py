"""A study: the trials of a search, kept by Optuna in a database next to the store. Safe for several processes.

Each trial has a slot, 0 ... n − 1, and each slot is settled once. A trial whose process died is reported to Optuna as
failed, and its slot is run again with the same parameters. The sampler of a slot is created from the seed and the slot,
so an interrupted study continues as if it had not been interrupted. A process changes a study under the study's lock,
and works on a trial under the lock that the trial names.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import StoreError
from pipeline.sweeps.search.space import SearchConfig
from pipeline.tracking.locks import RunLocks
from pipeline.tracking.retry import notify
from pipeline.tracking.uri import engine_uri
from pipeline.wording import counted

CLAIM, RESULT = "claim", "result"  # attributes of a trial
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
DIRECTIONS = {
    "maximise": optuna.study.StudyDirection.MAXIMIZE,
    "minimise": optuna.study.StudyDirection.MINIMIZE,
    "zero": optuna.study.StudyDirection.MINIMIZE,
}
SECONDS = 60.0  # seconds to wait for a database that another process has locked


@dataclass(frozen=True)
class Result:
    """The end of a trial: with a value, pruned, or failed.

    Attributes:
        run_id: Id of its run; "" if it has none.
        value: The objective.
        pruned: Why the run was stopped early.
        error: Why the run failed.
        verdict: The verdict on the run in a word or two.
        diverged: Number of replicates that diverged.
    """

    run_id: str
    value: float | None = None
    pruned: str | None = None
    error: str | None = None
    verdict: str = ""
    diverged: int = 0


ABANDONED = Result("", error="its process died")


class Study:
    """The trials of one search.

    Args:
        folder: Folder of the database.
        study_id: Name of the study and of its file.
        config: The search.
        locks: Locks of the store.
        lock: Name of the lock that this process holds.
    """

    def __init__(self, folder: Path, study_id: str, config: SearchConfig, locks: RunLocks, lock: str) -> None:
        self.id, self.config = study_id, config
        self._locks, self._lock = locks, lock
        self._waiting = False
        self._distributions = {key: r.distribution() for key, r in config.space.items()}
        self._path = folder / f"{study_id}.db"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._locked():
            self._study = self._open()

    def _open(self) -> optuna.Study:
        """Open the database. A new one is written under another name first and then renamed."""
        if not self._path.exists():
            for stale in self._path.parent.glob(f"{self._path.name}.*.new*"):
                stale.unlink(missing_ok=True)
            temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
            storage = _storage(temporary)
            optuna.create_study(storage=storage, study_name=self.id, direction=DIRECTIONS[self.config.direction])
            storage.engine.dispose()
            temporary.replace(self._path)
        return optuna.load_study(storage=_storage(self._path), study_name=self.id)

    @property
    def optuna_study(self) -> optuna.Study:
        """The study of Optuna."""
        return self._study

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._locks.acquire(f"study-{self.id}", timeout=-1), _one_line(self.id):
            yield

    def settled(self) -> list[FrozenTrial]:
        """Return the trials that have a result, by slot."""
        found = [t for t in self._current() if t.state in FINISHED]
        return sorted(found, key=slot_of)

    def done(self) -> bool:
        """Return whether every slot is settled."""
        return self.settled_count() >= self.config.trials

    def settled_count(self) -> int:
        """Return how many of the requested slots are settled."""
        return sum(slot_of(t) < self.config.trials for t in self.settled())

    def report_waiting(self) -> None:
        """Report, once, that other processes work on the remaining trials."""
        if not self._waiting:
            self._waiting = True
            notify(f"waiting for other processes: {counted(self.config.trials - self.settled_count(), 'trial')} to go")

    def _current(self) -> list[FrozenTrial]:
        """Return all trials with a slot that are not abandoned."""
        with _one_line(self.id):
            trials = self._study.get_trials(deepcopy=False)
        return [t for t in trials if CLAIM in t.user_attrs and not is_abandoned(t)]

    def claim(self) -> Trial | None:
        """Return the next trial for this process; None if all slots are settled or claimed by other processes."""
        with self._locked():
            self._abandon_stale_trials()
            taken = {slot_of(t) for t in self._current()}
            slot = next((p for p in range(self.config.trials) if p not in taken), None)
            if slot is None:
                return None
            parameters = self._abandoned_parameters(slot)
            if parameters is not None:
                self._study.enqueue_trial(dict(parameters))
            self._study.sampler = sampler(self.config, slot)
            trial = self._study.ask(self._distributions)
            trial.set_user_attr(CLAIM, {"slot": slot, "lease": self._lock})
            return trial

    def _abandon_stale_trials(self) -> None:
        """End the trials on which no living process works: with their result if they have one, else as abandoned."""
        for t in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = t.user_attrs.get(CLAIM, {}).get("lease")
            if lock is not None and (lock == self._lock or self._locks.is_held(lock)):
                continue
            self._end(t.number, result_of(t) if RESULT in t.user_attrs else ABANDONED)
        while self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._end(self._study.ask().number, ABANDONED)  # enqueued by a process that died before it asked

    def _end(self, number: int, result: Result) -> None:
        if result.value is not None:
            self._study.tell(number, result.value)
        else:
            self._study.tell(number, state=TrialState.PRUNED if result.pruned else TrialState.FAIL)

    def _abandoned_parameters(self, slot: int) -> Mapping[str, Any] | None:
        """Return the parameters of the abandoned trial of this slot, if there is one."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        abandoned = [t for t in trials if CLAIM in t.user_attrs and is_abandoned(t) and slot_of(t) == slot]
        if abandoned and set(abandoned[-1].params) == set(self._distributions):
            return abandoned[-1].params
        return None

    def abandon(self, trial: Trial) -> None:
        """Abandon a trial: its slot is run again. A trial that has a result keeps it."""
        with self._locked():
            if not self._study.trials[trial.number].state.is_finished():
                self._end(trial.number, ABANDONED)

    def tell(self, trial: Trial, result: Result) -> None:
        """Report the result of a trial to Optuna."""
        with self._locked():
            trial.set_user_attr(RESULT, asdict(result))
            self._end(trial.number, result)

    def best(self) -> FrozenTrial | None:
        """Return the best trial that has a value, the first of equal ones."""
        found = [t for t in self.settled() if t.value is not None]
        sign = -1.0 if self.config.direction == "maximise" else 1.0
        return min(found, key=lambda t: sign * float(t.value or 0.0), default=None)

    def importances(self) -> dict[str, float]:
        """Return each key's share of the variation of the metric, the largest first; 0 without enough values."""
        try:
            shares = optuna.importance.get_param_importances(
                self._study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
            )
        except (ValueError, RuntimeError):  # fewer than two values, or all the same
            shares = {}
        return {key: shares.get(key, 0.0) for key in sorted(self._distributions, key=lambda k: -shares.get(k, 0.0))}


def is_abandoned(trial: FrozenTrial) -> bool:
    """Return whether a trial ended without a result: its slot is free."""
    return trial.state == TrialState.FAIL and (RESULT not in trial.user_attrs or bool(trial.user_attrs.get("lost")))


def slot_of(trial: FrozenTrial) -> int:
    """Return the slot of a trial."""
    return int(trial.user_attrs[CLAIM]["slot"])


def result_of(trial: FrozenTrial) -> Result:
    """Return the result of a settled trial."""
    return Result(**trial.user_attrs[RESULT])


def sampler(config: SearchConfig, slot: int) -> BaseSampler:
    """Return the sampler of one slot."""
    seed = int(np.random.SeedSequence(config.seed, spawn_key=(slot,)).generate_state(1)[0])
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _storage(path: Path) -> optuna.storages.RDBStorage:
    address = engine_uri(f"sqlite:///{path}", "rwc")
    return optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": SECONDS}})


@contextlib.contextmanager
def _one_line(study_id: str) -> Iterator[None]:
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as failure:
        cause: BaseException = failure.__cause__ or failure
        text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise StoreError(f"study {study_id}: its database cannot be used ({text})") from failure
