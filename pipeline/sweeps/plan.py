"""Plan a sweep: compose, build, check and fingerprint each cell once, before the first one runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.compose import Cell
from pipeline.config.instantiate import instantiate
from pipeline.config.schema import OWN_PACKAGES
from pipeline.errors import ConfigError
from pipeline.progress import track
from pipeline.reports.figures.style import run_colours
from pipeline.reproducibility.environment import user_name
from pipeline.runs.job import CellJob, prepare_cell
from pipeline.sweeps.slurm.config import KEY as EXECUTOR
from pipeline.tracking.metric_names import check_listed_probes
from pipeline.tracking.run_names import run_name
from pipeline.tracking.tags import DATA_FILE, SWEEP_TAG
from pipeline.tracking.uri import TrackingConfig, redact
from pipeline.wording import counted

MOST_DESCRIBED = 3  # tables whose description is printed


@dataclass(frozen=True)
class Plan:
    """The jobs of a sweep.

    Attributes:
        sweep_id: The same for the same cells, so that the same command resumes the same sweep.
        tracking: The store of all its runs.
    """

    name: str
    sweep_id: str
    tracking: TrackingConfig
    jobs: Sequence[CellJob]


def plan_sweep(cells: Sequence[Cell], quiet: bool = False) -> Plan:
    """Check all cells and return their jobs.

    Args:
        cells: The composed cells.
        quiet: Show no progress bar.

    Raises:
        ConfigError: An invalid cell; the message names the cell if there are several.
    """
    if not cells:
        raise ConfigError("the sweep has no cells: a swept key has no values")
    name = str(cells[0].config.get("name") or "sweep")
    jobs = prepare_cells(cells, name, {"kind": "run"}, quiet)
    sweep_id = sweep_id_of(name, [job.cell_id for job in jobs])
    colours = run_colours([cell.swept for cell in cells])
    jobs = [
        replace(job, tags={**job.tags, SWEEP_TAG: sweep_id, "mlflow.runColor": colour})
        for job, colour in zip(jobs, colours, strict=True)
    ]
    return Plan(name, sweep_id, tracking_of(cells[0].config), jobs)


def data_lines(jobs: Sequence[CellJob]) -> list[str]:
    """Return what the cells are trained and tested on, as lines of text. Cells that differ in the seed share lines."""
    described = {repr(job.run.config.data): job.run.facts.description for job in jobs}
    descriptions = [description for description in described.values() if description is not None]
    lines = [line for description in descriptions[:MOST_DESCRIBED] for line in description.lines()]
    more = len(descriptions) - MOST_DESCRIBED
    return lines + ([f"and {counted(more, 'more table')}: see {DATA_FILE} of each run"] if more > 0 else [])


def prepare_cells(cells: Sequence[Cell], name: str, tags: Mapping[str, str], quiet: bool = False) -> list[CellJob]:
    """Check all cells and return their jobs.

    Args:
        cells: The composed cells.
        name: Name of the sweep.
        tags: Tags of all its runs.
        quiet: Show no progress bar.

    Raises:
        ConfigError: An invalid cell; the message names the cell if there are several.
    """
    jobs = []
    with track(cells, "checking cells", quiet) as tracked:
        for cell in tracked:
            try:
                own_tags = {**tags, **source_tags(cell.overrides)}
                title = run_name(cell.swept, name)
                own_config = {key: value for key, value in cell.config.items() if key != EXECUTOR}
                jobs.append(prepare_cell(own_config, title, cell.swept, own_tags, choices=cell.choices))
                tracking_of(cell.config)
            except ConfigError as invalid:
                values = ", ".join(f"{k}={v}" for k, v in cell.swept.items())
                raise ConfigError(f"{invalid} (cell {values})" if values else str(invalid)) from invalid
            for key in ("tracking", EXECUTOR):
                if cell.config.get(key) != cells[0].config.get(key):
                    raise ConfigError(f"{key}: must be the same in every cell of a sweep")
    return jobs


def sweep_id_of(name: str, cell_ids: Sequence[str]) -> str:
    """Return a sweep's id. It depends on the set of cells, not on their order."""
    digest = hashlib.sha256("".join(sorted(cell_ids)).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{digest[:8]}"


def tracking_of(raw_config: Mapping[str, Any]) -> TrackingConfig:
    """Return where and how completely the runs of a config are logged.

    Raises:
        ConfigError: An invalid address, or metrics of a probe that the config does not measure.
    """
    tracking: TrackingConfig = instantiate(TrackingConfig, raw_config["tracking"], "tracking", OWN_PACKAGES)
    tracking.resolved_uri()
    check_listed_probes(tracking, raw_config["probes"])
    return tracking


def source_tags(overrides: Sequence[str]) -> dict[str, str]:
    """Return the tags that say where a run comes from, most of which MLflow shows in columns of its own.

    Args:
        overrides: The overrides that compose the run.
    """
    source = {"mlflow.source.name": "gradvitals", "mlflow.source.type": "LOCAL", "mlflow.user": user_name()}
    text = redact(" ".join(overrides))[:4000]
    return source | ({"overrides": text} if text else {})
