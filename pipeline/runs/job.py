"""A cell that is ready to run, and how to run it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import schema
from pipeline.config.schema import checkpoint_config
from pipeline.profiling import PROFILE
from pipeline.reproducibility.environment import Provenance
from pipeline.reproducibility.fingerprint import SourceFiles, code_files, digest_of_files, fingerprint
from pipeline.runs.early_stopping import Pruning
from pipeline.runs.limits import Limits
from pipeline.tracking.uri import SUMMARY, MetricChoice
from pipeline.training.prepare import PreparedRun, load_facts, prepare_run


@dataclass(frozen=True)
class CellJob:
    """A cell that is ready to run: composed, built, checked and fingerprinted.

    Attributes:
        name: Name of its run.
        swept: Value of each swept key, as text.
        raw_config: The resolved config.
        run: The config as objects, with its data.
        cell_id: Fingerprint of config, data and code.
        code: Digest of the code.
        code_files: The files of the code.
        tags: Tags of its run.
        choices: The option that was chosen for a key of the config, where the config was composed.
    """

    name: str
    swept: Mapping[str, str]
    raw_config: Mapping[str, Any]
    run: PreparedRun
    cell_id: str
    code: str
    code_files: SourceFiles
    tags: Mapping[str, str]
    choices: Mapping[str, str] = field(default_factory=dict)


Stack = Sequence[CellJob]  # cells that train together


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the user chose for the runs of one command.

    Attributes:
        command: A unique id of the command. Its own runs carry the id as a tag.
        retry: Run failed cells again.
        force: Run all cells again.
        repeat: Resume interrupted runs only; start a new run for a cell that has ended.
        limits: Limits of each run.
        pruning: When to stop a run early; None for never.
        origin: Code, packages and machine, as each run records them; None to find out for each process.
        metrics: The series that each run logs (``tracking.metrics``).
        figures: Whether each run logs its figure.
        parameters: Whether each run logs its final parameters.
        keeps_records: Whether each result has all records, for an analysis of the steps in between.
        task: Tags that name the scheduler's task which works on the runs. Such runs are fenced: a task that the
            scheduler has given up, but that still lives, cannot write to a run that a later attempt has resumed.
    """

    command: str
    retry: bool = False
    force: bool = False
    repeat: bool = False
    limits: Limits = Limits()  # noqa: RUF009 (frozen)
    pruning: Pruning | None = None
    origin: Provenance | None = None
    metrics: MetricChoice = SUMMARY
    figures: bool = True
    parameters: bool = True
    keeps_records: bool = False
    task: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """The run of the store that an execution writes to.

    Attributes:
        run_id: The interrupted run to resume; None for a new run.
        number: How many times the run has been resumed.
        not_before: The earliest start time of a new run, milliseconds since 1970.
    """

    run_id: str | None = None
    number: int = 0
    not_before: int | None = None


def prepare_cell(
    raw_config: Mapping[str, Any],
    name: str,
    swept: Mapping[str, str],
    run_tags: Mapping[str, str],
    trusted: Collection[str] | None = None,
    choices: Mapping[str, str] | None = None,
) -> CellJob:
    """Build, check and fingerprint a cell.

    Args:
        raw_config: The resolved config.
        name: Name of its run.
        swept: Value of each swept key, as text.
        run_tags: Tags of its run.
        trusted: Packages whose classes the config may name; all packages by default.
        choices: The option that was chosen for a key of the config.

    Raises:
        ConfigError: An invalid key, value or combination.
    """
    config = schema.build(raw_config, trusted)
    with PROFILE.activity("data"):  # cached for the next line, and for all cells that share them
        load_facts(config.data, config.seed, config.replicates, config.dtype)
    run = prepare_run(config)
    checkpoint_config(raw_config)
    cell_id = fingerprint(raw_config, run.facts.digest)
    files = code_files(raw_config)
    return CellJob(name, swept, raw_config, run, cell_id, digest_of_files(files), files, run_tags, choices or {})
