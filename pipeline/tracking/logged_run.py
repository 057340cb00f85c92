"""A logged run, read back from a store or from a folder. Everything in it is untrusted."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import pandas as pd

from pipeline.analysis.summary import PROFILED, Summary
from pipeline.errors import ConfigError
from pipeline.tracking.artifact_parsers import Theory as Theory
from pipeline.tracking.artifact_parsers import parse_config, parse_findings, parse_provenance, parse_theory, records_of
from pipeline.tracking.metric_names import DIVERGED
from pipeline.tracking.safe_reading import LONGEST_TEXT, printable, read_table, read_text
from pipeline.tracking.store import Store, download
from pipeline.tracking.tags import (
    CONFIG_FILE,
    DIVERGENCE_FILE,
    PACKAGES_FILE,
    PATCH_FILE,
    PROVENANCE_FILE,
    RECORDS_FILE,
    THEORY_FILE,
    VERDICT_FILE,
    verdict_of,
)
from pipeline.training.records import COLUMNS
from pipeline.wording import command

HEADLINE_PROBES = (  # enough for the final numbers and the profiles of a sweep
    "delta_rms",
    "gradient_norm",
    *(f"{quantity}/{part}" for quantity in ("cost", "accuracy", "r2") for part in ("train", "validation", "test")),
)


class RunFiles(Protocol):
    """The artifacts of one run."""

    def has(self, name: str) -> bool:
        """Return whether the run has an artifact."""

    def open(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Provide an artifact as a local file for a block."""


@dataclass(frozen=True)
class StoreFiles:
    """Artifacts in a store. Each is downloaded when it is read, and removed afterwards."""

    store: Store
    run_id: str

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(a.path for a in self.store.client.list_artifacts(self.run_id))

    def has(self, name: str) -> bool:
        """Return whether the run has an artifact."""
        return name in self._names

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """Provide an artifact as a local file for a block."""
        with tempfile.TemporaryDirectory() as folder:
            yield download(self.store, self.run_id, name, Path(folder))


@dataclass(frozen=True)
class FolderFiles:
    """Artifacts in a folder. Only plain files count: a link may lead anywhere."""

    folder: Path

    def has(self, name: str) -> bool:
        """Return whether the folder has an artifact."""
        path = self.folder / name
        return path.is_file() and not path.is_symlink()

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """Provide the path of an artifact for a block."""
        yield self.folder / name


@dataclass(frozen=True)
class LoggedRun:
    """A logged run. Its artifacts are read when they are first used.

    Args:
        run_id: Its id in the store that it was logged to.
        name: Its name, for people.
        status: FINISHED, FAILED, KILLED or RUNNING.
        start_time: When it started, as text in UTC.
        tags: Its tags.
        params: Its parameters.
        metrics: The newest value of each metric.
        files: Its artifacts.
        probes: The probes whose records are read; None for all.
        folder: The folder of an exported run, None for a run in a store.
    """

    run_id: str
    name: str
    status: str
    start_time: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    files: RunFiles
    probes: Collection[str] | None = None
    folder: Path | None = None

    @classmethod
    def from_store(cls, store: Store, run: Any, probes: Collection[str] | None = None) -> Self:
        """Return a run of a store.

        Args:
            store: The store.
            run: An MLflow run, from :meth:`pipeline.tracking.store.Store.find` or a search.
            probes: The probes whose records are read; None for all.

        Returns:
            The run.
        """
        run_id = str(run.info.run_id)
        return cls(
            run_id,
            str(run.info.run_name or run_id),
            str(run.info.status),
            format_time(run.info.start_time),
            run.data.tags,
            run.data.params,
            run.data.metrics,
            StoreFiles(store, run_id),
            probes,
        )

    def require(self, *names: str) -> Self:
        """Return this run, if it has these artifacts.

        Args:
            names: The artifacts' names.

        Returns:
            The run.

        Raises:
            ConfigError: An artifact is missing.
        """
        for name in names:
            if not self.files.has(name):
                raise ConfigError(f"run {self.run_id}: has no artifact {name} (is it a finished gradvitals run?)")
        return self

    @cached_property
    def records(self) -> pd.DataFrame:
        """Its table of records (:mod:`pipeline.training.records`), empty if the run has none.

        Raises:
            ConfigError: The records are not readable.
        """
        if not self.files.has(RECORDS_FILE):
            return pd.DataFrame({c: [] for c in COLUMNS})
        with self.files.open(RECORDS_FILE) as path:
            return read_table(path, COLUMNS, self.probes, f"{RECORDS_FILE} of run {self.run_id}")

    @cached_property
    def replicates(self) -> int:
        """The number of networks that were trained."""
        return int(self.records["replicate"].nunique())

    def summary(self) -> Summary:
        """Return the summary of its records, as after training. Norms are geometric means; no binned records."""
        records = records_of(self.records, geometric=PROFILED)
        layers = [len(r.layers) for r in records if r.probe in ("delta_rms", "gradient_norm")]
        summary = Summary(hidden_layers=min(layers, default=1) - 1)
        summary.has_diverged = self.metrics.get(DIVERGED) == 1
        for record in records:
            summary.add(record)
        return summary

    @cached_property
    def config(self) -> str:
        """Its resolved config as text to show, "" if there is none."""
        return self._text_to_show(CONFIG_FILE) or ""

    def raw_config(self, changes: Sequence[str] = ()) -> dict[str, Any]:
        """Return its resolved config as plain data.

        Args:
            changes: ``key=value`` changes to apply.

        Returns:
            The config.

        Raises:
            ConfigError: The run has no readable config, or a change does not fit it.
        """
        with self.require(CONFIG_FILE).files.open(CONFIG_FILE) as path:
            return parse_config(read_text(path), changes)

    @property
    def is_foreign(self) -> bool:
        """Whether it comes from a folder, whose author may be anyone."""
        return self.folder is not None or self.tags.get("imported") == "true"

    @contextlib.contextmanager
    def file_contents_hidden(self, raw_config: Mapping[str, Any]) -> Iterator[None]:
        """Replace errors of the block that may quote a file of this machine that a foreign run's config names.

        Args:
            raw_config: The config in use, with the user's changes. Files that only a change names are the user's own.
        """
        try:
            yield
        except ConfigError as refusal:
            used = set(_texts(raw_config.get("data")))
            named = [text for text in _texts(self.raw_config().get("data")) if text in used] if self.is_foreign else []
            files = [text for text in named if _exists(text)]
            if not files:
                raise
            raise ConfigError(
                f"run {self.run_id}: its data cannot be read from {printable(files[0])}, which its config names; the "
                "reason may quote that file and is not shown; the same data.source keys show it with "
                f"`{command('data')}`"
            ) from refusal

    @cached_property
    def provenance(self) -> Mapping[str, str]:
        """The facts about code, packages and machine: its tags, and its provenance.json, which older runs lack."""
        return {**self.tags, **(self._facts or {})}

    @cached_property
    def _facts(self) -> dict[str, str] | None:
        facts: dict[str, str] | None = self._parsed(PROVENANCE_FILE, parse_provenance)
        return facts

    @property
    def verdict(self) -> str:
        """The words of its verdict, "" if it has none."""
        return verdict_of(self.tags)

    @property
    def explanation(self) -> str:
        """The explanation of its verdict, "" if there is none. Runs of older versions have it in a tag."""
        return self._text_to_show(VERDICT_FILE) or self.tags.get("verdict_paragraph", "")

    @cached_property
    def theory(self) -> Theory | None:
        """The theoretical prediction, None if there is none that is readable."""
        theory: Theory | None = self._parsed(THEORY_FILE, parse_theory)
        return theory

    @cached_property
    def _parsed_findings(self) -> list[dict[str, str]] | None:
        findings: list[dict[str, str]] | None = self._parsed(DIVERGENCE_FILE, parse_findings)
        return findings

    @property
    def findings(self) -> Sequence[Mapping[str, str]]:
        """The first values that were not finite, of replicates that diverged."""
        return self._parsed_findings or []

    @property
    def notes(self) -> list[str]:
        """One line for each artifact that is not readable."""
        parts = {THEORY_FILE: self.theory, DIVERGENCE_FILE: self._parsed_findings, PROVENANCE_FILE: self._facts}
        return [
            f"{name} is there, but cannot be read"
            for name, part in parts.items()
            if part is None and self.files.has(name)
        ]

    @cached_property
    def packages(self) -> str:
        """Its list of packages, "" if there is none.

        Raises:
            ConfigError: The list is not readable.
        """
        return self._text(PACKAGES_FILE)

    @cached_property
    def patch(self) -> str:
        """The uncommitted changes that it was recorded with, "" if there are none.

        Raises:
            ConfigError: The patch is not readable.
        """
        return self._text(PATCH_FILE)

    def _text(self, name: str) -> str:
        if not self.files.has(name):
            return ""
        with self.files.open(name) as path:
            return read_text(path)

    def _text_to_show(self, name: str) -> str | None:
        """Return a text with its faults replaced; None if it is missing or too long."""
        if not self.files.has(name):
            return None
        with self.files.open(name) as path:
            if path.stat().st_size > LONGEST_TEXT:
                return None
            return path.read_text(encoding="utf-8", errors="replace")

    def _parsed(self, name: str, parse: Callable[[Any], Any]) -> Any:
        """Return a parsed JSON artifact, None if it is missing or not readable."""
        text = self._text_to_show(name)
        try:
            return None if text is None else parse(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def format_time(milliseconds: int | None) -> str:
    """Return a time, given in milliseconds since 1970, as text in UTC."""
    if milliseconds is None:
        return "unknown"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False
