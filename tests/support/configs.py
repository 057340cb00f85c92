"""Configs and records for tests."""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.compose import compose_run
from pipeline.config.schema import Config, build
from pipeline.data.files import Csv
from pipeline.data.prepare import Data, DataConfig, prepare
from pipeline.data.table import Source
from pipeline.training.loop import run
from pipeline.training.prepare import PreparedRun
from pipeline.training.records import Record
from pipeline.training.streams import RandomStreams
from pipeline.training.trainer import Trainer

REGRESSION = ("cost=half_squared_error", "activation@output=identity")


def require(condition: bool, reason: str) -> None:
    """Skip the test unless the condition holds; with GRADVITALS_REQUIRE_ALL set, fail it instead."""
    if condition:
        return
    if os.environ.get("GRADVITALS_REQUIRE_ALL"):
        pytest.fail(f"GRADVITALS_REQUIRE_ALL is set: {reason}")
    pytest.skip(reason)


def thorough(*cases: tuple[Any, ...]) -> list[Any]:
    """Return cases of a parametrised test that run in the thorough tier only."""
    return [pytest.param(*case, marks=pytest.mark.thorough) for case in cases]


def raw_config(*overrides: str) -> dict[str, Any]:
    """Return a copy of a run's resolved config. Each combination of overrides is composed once per process."""
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return compose_run(overrides)


def config(*overrides: str) -> Config:
    """Return a run's config as the command builds it."""
    return build(raw_config(*overrides))


def base_config() -> Config:
    """Return the config without overrides, for ``dataclasses.replace``."""
    return config()


Table = dict[tuple[int, str], tuple[tuple[int, ...], np.ndarray[Any, Any]]]


def table(records: list[Record]) -> Table:
    """Return records by (step, probe), each of which occurs once. Records with bins have the key probe/layer."""
    names = [r.probe if r.bins is None else "/".join([r.probe, *map(str, r.layers)]) for r in records]
    by_key = {(r.step, name): (r.layers, r.values) for r, name in zip(records, names, strict=True)}
    assert len(by_key) == len(records)
    return by_key


def records(*overrides: str) -> Table:
    """Return all records of a run."""
    return table(list(run(config(*overrides))))


def csv_source(path: Path, **arguments: Any) -> Csv:
    """Return a CSV file with target y as a source; whatever is not given is as in ``data=csv``."""
    chosen: dict[str, Any] = {"target": "y", "task": "classification", "categorical": "refuse", "missing": "refuse"}
    dialect = {"separator": "comma", "decimal": "point", "encoding": "utf-8"}
    others = dict.fromkeys(("thousands", "header", "missing_values", "comment"))
    return Csv(path=str(path), **(chosen | dialect | others | arguments))


def prepared(
    source: Source,
    seed: int = 0,
    replicates: int = 1,
    test_fraction: float | None = 0.25,
    subset: int | None = None,
    standardise: bool = False,
    validation_fraction: float = 0.0,
) -> Data:
    """Return a source's data, split with the random streams of a run with this seed."""
    chosen = DataConfig(source, test_fraction, subset, standardise, validation_fraction)
    return prepare(chosen, RandomStreams.of(seed, replicates).data, np.float64)


# Configs whose training is interrupted and resumed.
RESUMED = {
    "plain": [],
    "momentum and comparing probes": ["optimizer=momentum", "probes=full", "schedule=every", "data.subset=100"],
    "Adam": ["optimizer=adam", "optimizer.weight_decay=0.01", "data.subset=100"],
    "validation": ["data.validation_fraction=0.2", "data.subset=90", "replicates=2"],
    "early stopping": [
        "data.validation_fraction=0.2", "early_stopping=validation", "early_stopping.patience=3",
        "schedule@evaluation.schedule=every", "optimizer=adam", "optimizer.learning_rate=0.2",
    ],
    "with replacement, float32": ["batching=with_replacement", "dtype=float32", "optimizer=nesterov"],
    "diverges": ["init=gaussian", "init.weights.std=1e60", "activation=relu", "optimizer.learning_rate=1e80"],
    "trains on after diverging": [
        "init=gaussian", "init.weights.std=1e60", "activation=relu", "optimizer.learning_rate=1e80",
        "divergence.stop=false",
    ],
}  # fmt: skip


def first_step(run: PreparedRun) -> Trainer:
    """Return the trainer of a run after the passes of its first step; its network has the proposed update."""
    trainer = Trainer([run])
    x, y = trainer.next_batch()
    trainer.network.forward(x)
    trainer.network.backward(y, run.config.cost)
    trainer.optimizer.propose(trainer.network, trainer.optimizer_state, 0, trainer.total_steps)
    return trainer
