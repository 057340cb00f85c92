"""A logged run, read back from the store. Nothing in a store is trusted: whatever does not fit is refused or told."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.arrays import Array
from pipeline.analysis.summary import PROFILED, Summary
from pipeline.errors import ConfigError
from pipeline.tracking.safe_reading import LONGEST_TEXT, parse_yaml, read_table
from pipeline.tracking.store import Store, download
from pipeline.tracking.tags import CONFIG_FILE, DIVERGENCE_FILE, RECORDS_FILE, THEORY_FILE
from pipeline.training.records import COLUMNS, Record

TEXTS = (CONFIG_FILE, THEORY_FILE, DIVERGENCE_FILE)
HEADLINE_PROBES = (  # all that the final numbers and the profiles of a sweep need
    "delta_rms",
    "gradient_norm",
    *(f"{quantity}/{part}" for quantity in ("cost", "accuracy", "r2") for part in ("train", "test")),
)


@dataclass(frozen=True)
class Theory:
    """What theory predicts at initialisation; arrays over ``layers``, NaN where it says nothing.

    Attributes:
        delta_rms: of each layer.
        low, high: the 95% band of one example over initialisations at the width of the net.
        z_mean_square: ⟨z²⟩ of each layer.
    """

    layers: Array
    delta_rms: Array
    low: Array
    high: Array
    z_mean_square: Array


@dataclass(frozen=True)
class Logged:
    """A run as the store has it.

    Attributes:
        started: when, UTC, in words.
        table: its records (:mod:`pipeline.training.records`); no rows for a run that has not written them.
        config: the resolved config, YAML; "" if there is none.
        findings: of replicates that diverged, first values that were not finite.
        notes: artifacts that are there but cannot be read.
    """

    run_id: str
    name: str
    status: str
    started: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    table: pd.DataFrame
    config: str
    theory: Theory | None
    findings: Sequence[Mapping[str, str]]
    notes: Sequence[str]

    def summary(self) -> Summary:
        """Its records, as they were when it was trained; those with bins are left in the table."""
        geometric = {key[6:].rpartition("/")[0] for key in self.metrics if key.startswith("log10_")}
        records = records_of(self.table, geometric | {"delta_rms", "gradient_norm"})
        layers = [len(r.layers) for r in records if r.probe in ("delta_rms", "gradient_norm")]
        summary = Summary(hidden_layers=min(layers, default=1) - 1)
        for record in records:
            summary.add(record)
        return summary

    @property
    def replicates(self) -> int:
        """How many networks were trained."""
        return int(self.table["replicate"].nunique())


def read(store: Store, run: Any, probes: Collection[str] | None = None, must: bool = True) -> Logged:
    """Everything that a report needs of a run.

    Args:
        run: an MLflow run, from :meth:`pipeline.tracking.store.Store.find` or a search.
        probes: those whose records are wanted; all by default.
        must: whether a run without records is an error.

    Raises:
        ConfigError: no records, or records that are not readable.
    """
    run_id = str(run.info.run_id)
    there = {a.path for a in store.client.list_artifacts(run_id)}
    wanted = [RECORDS_FILE] if must or RECORDS_FILE in there else []
    wanted += [name for name in TEXTS if name in there]
    with tempfile.TemporaryDirectory() as folder:
        return read_files(
            {name: download(store, run_id, name, Path(folder)) for name in wanted},
            probes,
            run_id=run_id,
            name=str(run.info.run_name or run_id),
            status=str(run.info.status),
            started=when(run.info.start_time),
            tags=run.data.tags,
            params=run.data.params,
            metrics=run.data.metrics,
        )


def read_files(files: Mapping[str, Path], probes: Collection[str] | None = None, **facts: Any) -> Logged:
    """The same from a run's files by name, wherever they are.

    Args:
        facts: the other attributes of :class:`Logged`.

    Raises:
        ConfigError: records that are not readable.
    """
    notes: list[str] = []
    table = pd.DataFrame({c: [] for c in COLUMNS})
    if RECORDS_FILE in files:
        table = read_table(files[RECORDS_FILE], COLUMNS, probes, f"{RECORDS_FILE} of run {facts['run_id']}")
    texts = {
        name: files[name].read_text(encoding="utf-8", errors="replace")
        for name in TEXTS
        if name in files and files[name].stat().st_size <= LONGEST_TEXT
    }
    return Logged(
        **facts,
        table=table,
        config=texts.get(CONFIG_FILE, ""),
        theory=_understood(theory_of, texts, THEORY_FILE, notes),
        findings=_understood(findings_of, texts, DIVERGENCE_FILE, notes) or [],
        notes=notes,
    )


def when(milliseconds: int | None) -> str:
    """A time in words, UTC."""
    if milliseconds is None:
        return "unknown"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _understood(reader: Any, texts: Mapping[str, str], name: str, notes: list[str]) -> Any:
    """What the reader makes of an artifact; None, and a note, if it makes nothing of it."""
    if name not in texts:
        return None
    try:
        return reader(json.loads(texts[name]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        notes.append(f"{name} is there, but cannot be read")
        return None


def records_of(table: pd.DataFrame, geometric: Collection[str] = ()) -> list[Record]:
    """The records that :func:`tidy` made a table of, in order of step; without those with bins.

    Raises:
        ConfigError: a table that does not hold one value for each step, layer and replicate.
    """
    found: list[Record] = []
    plain = table[table["bin"].isna()]
    for probe, rows in plain.groupby("probe", sort=False):
        layer = rows["layer"].fillna(0).to_numpy(np.int64)
        axes = [np.unique(x, return_inverse=True) for x in (rows["step"], layer, rows["replicate"])]
        steps, layers, replicates = (values for values, _ in axes)
        if steps.size * layers.size * replicates.size > 10 * len(rows) + 1000:
            raise ConfigError(f"{RECORDS_FILE}: {probe} has no value for most steps, layers and replicates")
        if (rows["layer"].isna().any() and layers.size > 1) or (layers < 0).any() or steps[0] < 0 or replicates[0] < 0:
            raise ConfigError(f"{RECORDS_FILE}: {probe} has a step, a layer or a replicate that no run has")
        if layers[0] == 0 and (not rows["layer"].isna().all() or probe in PROFILED):
            raise ConfigError(f"{RECORDS_FILE}: {probe} has no layer where it must have one, or layer 0")
        values = np.full((steps.size, layers.size, replicates.size), np.nan)
        values[tuple(index for _, index in axes)] = rows["value"]
        numbers = tuple(int(n) for n in layers) if layers[0] > 0 else ()
        name = str(probe)
        found += [
            Record(int(step), name, numbers, block, name in geometric)
            for step, block in zip(steps, values, strict=True)
        ]
    return sorted(found, key=lambda r: r.step)


def theory_of(node: Mapping[str, Any]) -> Theory:
    """The prediction in an artifact ``theory.json``.

    Raises:
        ValueError: columns of different lengths.
    """
    layers = np.array(node["layers"], dtype=np.float64)
    columns = [
        np.array(node.get(n) or [None] * layers.size, dtype=np.float64) for n in ("low", "high", "z_mean_square")
    ]
    delta = np.array(node["delta_rms"], dtype=np.float64)
    if layers.ndim != 1 or not layers.size or any(c.shape != layers.shape for c in (delta, *columns)):
        raise ValueError("layers: must be as many as there are values")
    return Theory(layers, delta, *columns)


def findings_of(node: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The findings in an artifact ``divergence.json``, as text."""
    told = []
    for finding in node:
        operands = ", ".join(f"max|{name}| = {_short(size)}" for name, size in finding["operands"].items())
        layer = finding["layer"]
        told.append(
            {key: str(finding[key]) for key in ("replicate", "step", "quantity", "operation", "count")}
            | {"layer": "–" if layer is None else str(layer), "operands": operands}
        )
    return told


def _short(size: object) -> str:
    return f"{float(str(size)):.3g}"


def logged_config(path: Path, changes: Sequence[str]) -> dict[str, Any]:
    """A logged config.yaml, with ``key=value`` changes applied.

    Raises:
        ConfigError: a file that is not such a config, a change that does not fit it.
    """
    try:
        return config_of(path.read_text(encoding="utf-8"), changes)
    except UnicodeDecodeError as broken:
        raise ConfigError(f"{CONFIG_FILE}: is not readable YAML") from broken


def config_of(text: str, changes: Sequence[str]) -> dict[str, Any]:
    """A logged config, with ``key=value`` changes applied.

    Raises:
        ConfigError: a text that is not such a config, a change that does not fit it.
    """
    node = parse_yaml(text, CONFIG_FILE)
    try:
        config = OmegaConf.create(node)
        OmegaConf.set_struct(config, True)
        for change in changes:
            key, separator, _ = change.partition("=")
            if not separator:
                raise ConfigError(f"{change}: must be key=value")
            if OmegaConf.select(config, key, default="\0missing") == "\0missing":
                raise ConfigError(f"{key}: no such key in the logged config")
            config.merge_with_dotlist([change])
    except (
        OmegaConfBaseException,
        yaml.YAMLError,
        ValueError,
        AttributeError,
        AssertionError,
        RecursionError,
    ) as wrong:
        raise ConfigError(f"{CONFIG_FILE}: {next(iter(str(wrong).splitlines()), type(wrong).__name__)}") from wrong
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {str(k): v for k, v in plain.items()}
