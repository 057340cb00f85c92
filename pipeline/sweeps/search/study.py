"""A study: the trials of a search, kept by Optuna in a database beside the store. Safe for many processes.

Every trial has a slot, 0 ... n − 1, and each slot is settled once. A trial that a dead process left is told to
Optuna as failed and its slot asked for again, with the same parameters. The sampler is made anew for each slot
from the seed and the slot, so a study that was interrupted goes on as if it had not been. Whoever changes a study
holds its lock; whoever works on a trial holds the lease that it names.
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

CLAIM, LOST, RESULT = "claim", "lost", "result"  # attributes of a trial: each costs a transaction
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
DIRECTIONS = {
    "maximise": optuna.study.StudyDirection.MAXIMIZE,
    "minimise": optuna.study.StudyDirection.MINIMIZE,
    "zero": optuna.study.StudyDirection.MINIMIZE,
}
SECONDS = 60.0  # to wait for a database that somebody else holds


@dataclass(frozen=True)
class Result:
    """How a trial ended: with a value, pruned, or failed.

    Attributes:
        run_id: of its run; "" if it has none.
        value: what the metric counts for.
        pruned, error: why there is no value.
        verdict: of the run, in a word or two.
        diverged: how many replicates diverged.
    """

    run_id: str
    value: float | None = None
    pruned: str | None = None
    error: str | None = None
    verdict: str = ""
    diverged: int = 0


class Study:
    """The trials of one search.

    Args:
        folder: where the database is.
        study_id: the study's name, and its file's.
        config: the search.
        locks: of the store.
        lease: the one that this process holds.
    """

    def __init__(self, folder: Path, study_id: str, config: SearchConfig, locks: RunLocks, lease: str) -> None:
        self.id, self.config = study_id, config
        self._leases, self._lease = locks, lease
        self._waiting = False
        self._distributions = {key: r.distribution() for key, r in config.space.items()}
        self._path = folder / f"{study_id}.db"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._locked():
            self._study = self._open()

    def _open(self) -> optuna.Study:
        """A new database is made beside its place and put there whole."""
        if not self._path.exists():
            for left in self._path.parent.glob(f"{self._path.name}.*.new*"):
                left.unlink(missing_ok=True)
            beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
            made = _storage(beside)
            optuna.create_study(storage=made, study_name=self.id, direction=DIRECTIONS[self.config.direction])
            made.engine.dispose()
            beside.replace(self._path)
        return optuna.load_study(storage=_storage(self._path), study_name=self.id)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._leases.acquire(f"study-{self.id}", timeout=-1), _one_line(self.id):
            yield

    def settled(self) -> list[FrozenTrial]:
        """The trials that ended, by slot."""
        found = [t for t in self._current() if t.state in FINISHED]
        return sorted(found, key=position_of)

    def done(self) -> bool:
        """Whether every slot is settled."""
        return self.settled_count() >= self.config.trials

    def settled_count(self) -> int:
        """How many of the positions wanted are settled."""
        return sum(position_of(t) < self.config.trials for t in self.settled())

    def tell_waiting(self) -> None:
        """Say, once, that others are at work on what is left."""
        if not self._waiting:
            self._waiting = True
            notify(
                f"other processes are at the last {self.config.trials - self.settled_count()} trials; waiting for them"
            )

    def _current(self) -> list[FrozenTrial]:
        """All trials with a slot that are not lost."""
        with _one_line(self.id):
            trials = self._study.get_trials(deepcopy=False)
        return [t for t in trials if CLAIM in t.user_attrs and not t.user_attrs.get(LOST)]

    def claim(self) -> Trial | None:
        """The next trial to be run by this process; None if all are settled or at work in other processes."""
        with self._locked():
            self._bury_the_dead()
            taken = {position_of(t) for t in self._current()}
            slot = next((p for p in range(self.config.trials) if p not in taken), None)
            if slot is None:
                return None
            lost = self._lost_parameters(slot)
            if lost is not None:
                self._study.enqueue_trial(dict(lost))
            self._study.sampler = sampler(self.config, slot)
            trial = self._study.ask(self._distributions)
            trial.set_user_attr(CLAIM, {"slot": slot, "lease": self._lease})
            return trial

    def _bury_the_dead(self) -> None:
        """Tell as failed what no living process works on."""
        for t in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lease = t.user_attrs.get(CLAIM, {}).get("lease")
            if lease is None or (lease != self._lease and not self._leases.is_held(lease)):
                self._tell_lost(t.number, t._trial_id)
        while self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial = self._study.ask()  # enqueued by a process that died before it could ask
            self._tell_lost(trial.number, trial._trial_id)

    def _tell_lost(self, number: int, trial_id: int) -> None:
        Trial(self._study, trial_id).set_user_attr(LOST, True)
        self._study.tell(number, state=TrialState.FAIL)

    def _lost_parameters(self, slot: int) -> Mapping[str, Any] | None:
        """Those of the trial that had this slot and was lost, if there was one."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        lost = [t for t in trials if t.user_attrs.get(LOST) and CLAIM in t.user_attrs]
        had = [t for t in lost if position_of(t) == slot]
        return had[-1].params if had and set(had[-1].params) == set(self._distributions) else None

    def abandon(self, trial: Trial) -> None:
        """Give a trial up; it will be asked for again. One that has been told by now stays as it is."""
        with self._locked():
            if not self._study.trials[trial.number].state.is_finished():
                self._tell_lost(trial.number, trial._trial_id)

    def tell(self, trial: Trial, result: Result) -> None:
        """How a trial ended."""
        with self._locked():
            trial.set_user_attr(RESULT, asdict(result))
            if result.value is not None:
                self._study.tell(trial, result.value)
            else:
                self._study.tell(trial, state=TrialState.PRUNED if result.pruned else TrialState.FAIL)

    def best(self) -> FrozenTrial | None:
        """The best trial, if any has a value; of equal ones the first."""
        found = [t for t in self.settled() if t.value is not None]
        sign = -1.0 if self.config.direction == "maximise" else 1.0
        return min(found, key=lambda t: sign * float(t.value or 0.0), default=None)

    def importances(self) -> dict[str, float]:
        """Share of each key in the variation of the metric, the largest first; 0 for all while nothing can be told."""
        try:
            told = optuna.importance.get_param_importances(
                self._study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
            )
        except (ValueError, RuntimeError):  # fewer than two values, or all the same
            told = {}
        return {key: told.get(key, 0.0) for key in sorted(self._distributions, key=lambda k: -told.get(k, 0.0))}


def position_of(trial: FrozenTrial) -> int:
    """The slot of a trial that has one."""
    return int(trial.user_attrs[CLAIM]["slot"])


def result_of(trial: FrozenTrial) -> Result:
    """How a trial ended that was told."""
    return Result(**trial.user_attrs[RESULT])


def sampler(config: SearchConfig, slot: int) -> BaseSampler:
    """The sampler of one slot."""
    seed = int(np.random.SeedSequence(config.seed, spawn_key=(slot,)).generate_state(1)[0])
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _storage(path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": SECONDS}})


@contextlib.contextmanager
def _one_line(study_id: str) -> Iterator[None]:
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as failure:
        cause: BaseException = failure.__cause__ or failure
        text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise StoreError(f"study {study_id}: its database cannot be used ({text})") from failure
