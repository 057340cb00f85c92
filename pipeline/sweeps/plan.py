"""Check all cells of a sweep before the first one runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from pipeline.config import schema as configs
from pipeline.config.compose import Cell
from pipeline.config.instantiate import instantiate
from pipeline.config.schema import checkpoint_config
from pipeline.errors import ConfigError
from pipeline.reproducibility.fingerprint import fingerprint
from pipeline.tracking.store import TrackingConfig
from pipeline.tracking.uri import redact
from pipeline.training.prepare import prepare_run


def id_of(name: str, identities: Sequence[str]) -> str:
    """A sweep's id: the same for the same cells, so that the same command goes on with the same sweep."""
    together = hashlib.sha256("".join(sorted(identities)).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{together[:8]}"


def check(cells: Sequence[Cell]) -> list[str]:
    """Everything that can be wrong in a cell, found before any cell runs. Returns the cells' identities.

    Raises:
        ConfigError: naming the cell, if it is one of several.
    """
    if not cells:
        raise ConfigError("the sweep has no cells: a swept key has no values")
    identities = []
    for cell in cells:
        try:
            run = prepare_run(configs.build(cell.config))
            checkpoint_config(cell.config)
        except ConfigError as wrong:
            which = ", ".join(f"{k}={v}" for k, v in cell.swept.items())
            raise ConfigError(f"{wrong} (cell {which})" if which else str(wrong)) from wrong
        if cell.config["tracking"] != cells[0].config["tracking"]:
            raise ConfigError("tracking: must be the same in every cell of a sweep")
        identities.append(fingerprint(cell.config, run.data.digest))
    return identities


def tracking_of(node: dict[str, Any]) -> TrackingConfig:
    """Where this config's runs are logged."""
    tracking: TrackingConfig = instantiate(TrackingConfig, node["tracking"], "tracking", configs.OWN_PACKAGES)
    tracking.resolved_uri()
    return tracking


def source_tags(overrides: Sequence[str]) -> dict[str, str]:
    """Tags by which MLflow shows where a run came from."""
    given = redact(" ".join(overrides))[:4000]
    return {"mlflow.source.name": "gradvitals", "mlflow.source.type": "LOCAL", "overrides": given}
