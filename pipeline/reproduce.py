"""Train a logged run again from its logged config, and compare every record, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from threadpoolctl import threadpool_limits

from pipeline import config as configs
from pipeline.errors import ConfigError
from pipeline.execution import CONFIG_FILE, RECORDS_FILE
from pipeline.progress import bars
from pipeline.provenance import provenance
from pipeline.records import COLUMNS, tidy
from pipeline.tracking import Store, TrackingConfig, download
from pipeline.training import ready, train


@dataclass(frozen=True)
class Difference:
    """The first record at which two runs part, in order of step, then of the record in the run."""

    step: int
    probe: str
    layer: int | None
    replicate: int
    logged: float | None
    again: float | None

    def __str__(self) -> str:
        layer = "the network" if self.layer is None else f"layer {self.layer}"
        return (
            f"step {self.step}, {layer}, {self.probe}, replicate {self.replicate}: "
            f"logged {_number(self.logged)}, now {_number(self.again)}"
        )


def _number(value: float | None) -> str:
    return "no such record" if value is None else repr(float(value))


def first_difference(logged: pd.DataFrame, again: pd.DataFrame) -> Difference | None:
    """The first row in which two tables of records differ; None if they are identical, NaN equal to NaN."""
    keys = [c for c in COLUMNS if c != "value"]
    count = min(len(logged), len(again))
    same_key = np.ones(count, dtype=bool)
    for key in keys:
        a, b = (t[key].iloc[:count].astype("object").where(t[key].iloc[:count].notna(), None) for t in (logged, again))
        same_key &= np.array([x == y for x, y in zip(a, b, strict=True)], dtype=bool)
    was, now = (t["value"].iloc[:count].to_numpy(dtype=np.float64) for t in (logged, again))
    same = same_key & ((was.view(np.int64) == now.view(np.int64)) | (np.isnan(was) & np.isnan(now)))
    if same.all() and len(logged) == len(again):
        return None
    at = int(np.argmin(same)) if not same.all() else count
    in_logged, in_again = at < len(logged), at < len(again)
    row = (logged if in_logged else again).iloc[at]
    matching = at < count and bool(same_key[at])
    layer = None if pd.isna(row["layer"]) else int(row["layer"])
    return Difference(
        int(row["step"]),
        str(row["probe"]),
        layer,
        int(row["replicate"]),
        float(logged["value"].iloc[at]) if in_logged else None,
        float(again["value"].iloc[at]) if in_again and (matching or not in_logged) else None,
    )


def logged_config(path: Path, changes: Sequence[str]) -> dict[str, Any]:
    """A logged config.yaml, with ``key=value`` changes applied.

    Raises:
        ConfigError: a file that is not such a config, a change that does not fit it.
    """
    try:
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise ConfigError(f"{CONFIG_FILE}: is not readable YAML") from broken
    if not isinstance(node, dict):
        raise ConfigError(f"{CONFIG_FILE}: must hold a mapping")
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
    except OmegaConfBaseException as wrong:
        raise ConfigError(f"{CONFIG_FILE}: {str(wrong).splitlines()[0]}") from wrong
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {str(k): v for k, v in plain.items()}


def reproduce(
    run_id: str,
    changes: Sequence[str],
    tracking: TrackingConfig,
    allowed: Collection[str],
    quiet: bool,
    console: Console,
) -> int:
    """Train again and compare; prints "identical" (returns 0) or the first difference (returns 1).

    A logged config is untrusted: only classes and functions of ``engine``, ``pipeline`` and ``allowed`` are called.

    Raises:
        ConfigError: no such run, no records, or a config that does not stand up.
    """
    tracking.existing_uri()
    store = Store.open(tracking)
    found = store.find(run_id)
    with tempfile.TemporaryDirectory() as folder:
        node = logged_config(download(store, found.info.run_id, CONFIG_FILE, Path(folder)), changes)
        try:
            logged = pd.read_parquet(download(store, found.info.run_id, RECORDS_FILE, Path(folder)))
        except (OSError, ValueError) as broken:
            raise ConfigError(f"{RECORDS_FILE} of run {run_id}: is not readable parquet") from broken
    config = configs.build(node, configs.OWN_PACKAGES | set(allowed))
    with threadpool_limits(1), bars(1, quiet) as shown:
        run = ready(config)
        for line in environment_changes(found.data.tags, node, run.data.digest):
            console.print(f"differs: {line}", highlight=False, soft_wrap=True)
        with shown.run(found.info.run_name or "reproduce", run.clock.last_step) as on_step:
            again = tidy(train(run, on_step))
    difference = first_difference(logged, again)
    if difference is None:
        console.print(f"identical: all {len(logged)} records of run {found.info.run_id}", highlight=False)
        return 0
    console.print(f"different: {difference}", highlight=False, soft_wrap=True)
    return 1


def environment_changes(tags: dict[str, str], node: dict[str, Any], data_digest: str) -> list[str]:
    """What is not as it was when the run was logged: config, data, code, packages, machine."""
    now = provenance().tags | {"config.sha256": configs.digest(node), "data.sha256": data_digest}
    return [
        f"{key} was {tags.get(key, 'not logged')}, is {value}" for key, value in now.items() if tags.get(key) != value
    ]
