"""Where the parts of a run come from when they are asked for: the store, or the memory of this process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, Protocol

import pandas as pd

from engine.network import Network
from pipeline.analysis.summary import Summary
from pipeline.config.schema import build
from pipeline.errors import ConfigError
from pipeline.runs.result import RunResult
from pipeline.runs.untracked import TrainedCell
from pipeline.tracking.artifact_parsers import Theory
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.tags import CONFIG_FILE
from pipeline.training import parameter_file
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.records import tidy

ELSEWHERE = "was trained elsewhere, so it has records and a verdict, but no config and no network"


class Source(Protocol):
    """The parts of a run."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its resolved config."""

    @property
    def explanation(self) -> str:
        """The explanation of its verdict."""

    @property
    def records(self) -> pd.DataFrame:
        """Its table of records."""

    @property
    def summary(self) -> Summary:
        """The summary of its records."""

    @property
    def theory(self) -> Theory | None:
        """The theoretical prediction."""

    @property
    def network(self) -> Network:
        """The trained network [R]."""

    def prepare(self) -> PreparedRun:
        """Return its config as objects, checked against its data."""


class Trained:
    """The parts of a run that was trained without a store."""

    def __init__(self, cell: TrainedCell) -> None:
        self.config, self.explanation = cell.job.raw_config, cell.result.paragraph
        self.summary, self.theory, self.network = cell.summary, cell.theory, cell.network
        self._run = cell.job.run

    @cached_property
    def records(self) -> pd.DataFrame:
        """Its table of records."""
        return tidy(self.summary.records)

    def prepare(self) -> PreparedRun:
        """Return its config as objects."""
        return self._run


class Measured:
    """The parts of a run that was trained elsewhere, without a store."""

    theory = None

    def __init__(self, result: RunResult, summary: Summary) -> None:
        self._name, self.explanation, self.summary = result.name, result.paragraph, summary

    @cached_property
    def records(self) -> pd.DataFrame:
        """Its table of records."""
        return tidy(self.summary.records)

    @property
    def config(self) -> Mapping[str, Any]:
        """It has none."""
        raise ConfigError(f"{self._name}: {ELSEWHERE}")

    @property
    def network(self) -> Network:
        """It has none."""
        raise ConfigError(f"{self._name}: {ELSEWHERE}")

    def prepare(self) -> PreparedRun:
        """Raise an error: it has no config."""
        raise ConfigError(f"{self._name}: {ELSEWHERE}")


class Stored:
    """The parts of a run in a store or in an exported folder. Each is read when it is first asked for.

    Args:
        logged: The run.
        trusted: Packages whose classes its config may name; None for all, if the user composed the config.
    """

    def __init__(self, logged: LoggedRun, trusted: Collection[str] | None) -> None:
        self._logged, self._trusted = logged, trusted

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Its resolved config.

        Raises:
            ConfigError: It was trained elsewhere.
        """
        if not self._logged.files.has(CONFIG_FILE):
            raise ConfigError(f"run {self._logged.run_id}: {ELSEWHERE}")
        return self._logged.raw_config()

    @property
    def explanation(self) -> str:
        """The explanation of its verdict."""
        return self._logged.explanation

    @property
    def records(self) -> pd.DataFrame:
        """Its table of records."""
        return self._logged.records

    @cached_property
    def summary(self) -> Summary:
        """The summary of its records."""
        return self._logged.summary()

    @property
    def theory(self) -> Theory | None:
        """The theoretical prediction."""
        return self._logged.theory

    @cached_property
    def network(self) -> Network:
        """The trained network [R]. Its data are not needed."""
        config, name = build(self.config, self._trusted), parameter_file.PARAMETERS_FILE
        sizes = self._sizes()
        blocks = config.architecture.blocks(sizes, config.activations(len(sizes) - 1))
        network = Network(blocks, (config.replicates,), config.dtype)
        with self._logged.require(name).files.open(name) as path:
            parameter_file.load(path, network)
        return network

    def _sizes(self) -> list[int]:
        text = self._logged.params.get("layer_sizes", "")
        if not all(size.isdecimal() and int(size) for size in text.split("-")):
            raise ConfigError(f"run {self._logged.run_id}: has no parameter layer_sizes, such as 64-30-10")
        return [int(size) for size in text.split("-")]

    def prepare(self) -> PreparedRun:
        """Return its config as objects, checked against its data.

        Raises:
            ConfigError: Its data cannot be read, or have changed.
        """
        run_id = self._logged.run_id
        with self._logged.file_contents_hidden(self.config):
            run = prepare_run(build(self.config, self._trusted))
        if run.facts.digest != self._logged.provenance.get("data.sha256"):
            raise ConfigError(f"run {run_id}: its data have changed since it was trained")
        return run
