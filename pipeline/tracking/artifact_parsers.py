"""Parse the artifacts of a logged run. Artifacts are untrusted: what does not fit is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from engine.arrays import Array
from pipeline.analysis.summary import PROFILED
from pipeline.config.schema import with_one_length
from pipeline.errors import ConfigError
from pipeline.tracking.safe_reading import parse_yaml
from pipeline.tracking.tags import CONFIG_FILE, RECORDS_FILE
from pipeline.training.records import Record


@dataclass(frozen=True)
class Theory:
    """The prediction of mean-field theory at initialisation; arrays over layers, NaN where theory predicts nothing.

    Attributes:
        layers: Numbers of the layers.
        delta_rms: Predicted δ of each layer.
        low: Lower end of the 95% band of one example over initialisations at the network's width.
        high: Upper end of the band.
        z_mean_square: ⟨z²⟩ of each layer.
    """

    layers: Array
    delta_rms: Array
    low: Array
    high: Array
    z_mean_square: Array


def parse_theory(artifact: Mapping[str, Any]) -> Theory:
    """Return the prediction in the artifact ``theory.json``.

    Raises:
        ValueError: The columns have different lengths.
    """
    layers = np.array(artifact["layers"], dtype=np.float64)
    columns = [
        np.array(artifact.get(n) or [None] * layers.size, dtype=np.float64) for n in ("low", "high", "z_mean_square")
    ]
    delta = np.array(artifact["delta_rms"], dtype=np.float64)
    if layers.ndim != 1 or not layers.size or any(c.shape != layers.shape for c in (delta, *columns)):
        raise ValueError("layers: must be as many as there are values")
    return Theory(layers, delta, *columns)


def parse_provenance(artifact: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts in the artifact ``provenance.json``, as text."""
    return {str(name): str(fact) for name, fact in artifact.items()}


def parse_findings(artifact: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the findings in the artifact ``divergence.json``, as text."""
    findings = []
    for finding in artifact:
        operands = ", ".join(f"max|{name}| = {float(str(size)):.3g}" for name, size in finding["operands"].items())
        layer = "–" if finding["layer"] is None else str(finding["layer"])
        texts = {key: str(finding[key]) for key in ("replicate", "step", "quantity", "operation", "count")}
        findings.append({**texts, "layer": layer, "operands": operands})
    return findings


def records_of(table: pd.DataFrame, geometric: Collection[str] = ()) -> list[Record]:
    """Return the records in a table (:func:`pipeline.training.records.tidy`), in order of step, without binned ones.

    Args:
        table: The table of a logged run.
        geometric: Probes that are averaged geometrically.

    Returns:
        The records.

    Raises:
        ConfigError: The table does not hold one value for each step, layer and replicate.
    """
    records: list[Record] = []
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
        records += [
            Record(int(step), name, numbers, block, name in geometric)
            for step, block in zip(steps, values, strict=True)
        ]
    return sorted(records, key=lambda r: r.step)


def parse_config(text: str, changes: Sequence[str]) -> dict[str, Any]:
    """Return a logged config as plain data.

    Args:
        text: The artifact ``config.yaml``.
        changes: ``key=value`` changes to apply.

    Returns:
        The config.

    Raises:
        ConfigError: The text is no such config, or a change does not fit it.
    """
    raw_config = parse_yaml(text, CONFIG_FILE)
    changes = with_one_length(changes)
    if any(change.startswith("steps=") for change in changes):
        raw_config.setdefault("steps", None)  # older configs do not have the key
    try:
        config = OmegaConf.create(raw_config)
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
    ) as failure:
        reason = next(iter(str(failure).splitlines()), type(failure).__name__)
        raise ConfigError(f"{CONFIG_FILE}: {reason}") from failure
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {str(k): v for k, v in plain.items()}
