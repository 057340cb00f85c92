"""Log what a run leaves in the store besides its metrics: origin, files, figures and tags."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from engine.network import Network
from pipeline.analysis.estimates import show
from pipeline.analysis.summary import PROFILED, RunningSummary
from pipeline.analysis.verdict import Verdict
from pipeline.config import schema as configs
from pipeline.profiling import PROFILE
from pipeline.reports.figures.profiles import run_plot
from pipeline.reproducibility.environment import NO_COMMIT, Provenance
from pipeline.reproducibility.hash_chain import CHAIN_FILE, HashChain
from pipeline.runs.job import CellJob
from pipeline.runs.record_writer import RecordWriter
from pipeline.tracking.artifact_parsers import parse_theory
from pipeline.tracking.metrics import MetricLogger
from pipeline.tracking.run_logger import LoggedDataset
from pipeline.tracking.store import RunLogger, Store
from pipeline.tracking.tags import (
    CONFIG_FILE,
    DATA_FILE,
    DECADES_TAG,
    DIVERGENCE_FILE,
    FIGURE_FILE,
    LAST_STEPS_FILE,
    PROVENANCE_FILE,
    RECORDS_FILE,
    VERDICT_FILE,
    VERDICT_TAG,
)
from pipeline.tracking.uri import redacted_config
from pipeline.training import parameter_file
from pipeline.training.divergence import Divergence
from pipeline.training.records import tidy

DIGEST = 16  # characters of the digest that identifies a data set
WORD_START = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"  # in the name of a class: LeakyRelu, SGD


def log_origin(run_logger: RunLogger, job: CellJob, origin: Provenance) -> None:
    """Log config, code, data, packages and machine: all that a reproduction needs."""
    raw_config, run = job.raw_config, job.run
    run_logger.params(flat_params(raw_config, job.choices) | {"layer_sizes": "-".join(map(str, run.sizes))})
    facts = origin.facts | {
        "cell": job.cell_id,
        "config.sha256": configs.digest(raw_config),
        "data.sha256": run.facts.digest,
        "code.sha256": job.code,
        "seed": str(run.config.seed),
    }
    run_logger.text(json.dumps(facts, indent=1, ensure_ascii=False), PROVENANCE_FILE)
    if facts["git.commit"] != NO_COMMIT:
        run_logger.tags({"mlflow.source.git.commit": facts["git.commit"]})
    run_logger.text(yaml.safe_dump(redacted_config(raw_config), sort_keys=False), CONFIG_FILE)
    run_logger.text(origin.packages, "packages.txt")
    run_logger.dataset(_dataset(job))
    if run.facts.description is not None:
        run_logger.text(json.dumps(run.facts.description.as_json(), indent=1, ensure_ascii=False), DATA_FILE)
    if origin.patch:
        run_logger.text(origin.patch, "uncommitted.patch")


def _dataset(job: CellJob) -> LoggedDataset:
    """Return the data of a run, with the name of the option that was chosen."""
    config, facts = job.raw_config["data"], job.run.facts
    name = job.choices.get("data") or str(config["source"].get("name") or config["source"]["_target_"])
    size: dict[str, int] = {}
    if (data := facts.description) is not None:
        size = {"num_rows": data.rows, "num_elements": data.rows * (data.inputs + data.targets)}
        size |= {"inputs": data.inputs, "train_examples": data.train_examples, "test_examples": data.test_examples}
    return LoggedDataset(name, facts.digest[:DIGEST], json.dumps(config), json.dumps(size))


def log_chain(run_logger: RunLogger, chain: HashChain) -> None:
    """Log the links, digests and norms of the hash chain as a table."""
    chain.table().to_parquet(run_logger.folder / CHAIN_FILE, index=False, compression="zstd")


def log_verdict(run_logger: RunLogger, verdict: Verdict, text: str) -> None:
    """Log the verdict as tags, its decades as a tag and metrics, and its explanation as a text."""
    d = verdict.decades
    tags = {"verdict_at_start": verdict.start, "verdict_at_end": verdict.end}
    run_logger.tags({VERDICT_TAG: verdict.words, DECADES_TAG: show(d)} | tags)
    run_logger.text(text, VERDICT_FILE)
    for name, value in (("", d.mean), ("_low", d.low), ("_high", d.high)):
        run_logger.metric(f"verdict_decades{name}", float(value))


def log_divergences(run_logger: RunLogger, divergences: list[Divergence]) -> None:
    """Log which replicates diverged, where each became non-finite, and the records of the last steps."""
    run_logger.tags({"diverged": str(bool(divergences)).lower()})
    if not divergences:
        return
    findings = sorted((d.finding for d in divergences), key=lambda f: (f.step, f.replicate))
    run_logger.tags(
        {
            "diverged_at_step": str(findings[0].step),
            "diverged_replicates": ",".join(str(f.replicate) for f in sorted(findings, key=lambda f: f.replicate)),
        }
    )
    run_logger.metric("diverged_at_step", findings[0].step, findings[0].step)
    findings_json = [asdict(f) | {"operands": {k: str(v) for k, v in f.operands.items()}} for f in findings]
    run_logger.text(json.dumps(findings_json, indent=2, ensure_ascii=False), DIVERGENCE_FILE)
    first = min(divergences, key=lambda d: (d.finding.step, d.finding.replicate))
    tidy(first.last_steps).to_parquet(run_logger.folder / LAST_STEPS_FILE, index=False)


def log_profiles(metrics: MetricLogger, summary: RunningSummary) -> None:
    """Log the main norms against layer, at the start and at the end of training."""
    for probe in PROFILED:
        for index, when in ((0, "start"), (-1, "end")):
            record = summary.at(probe, index)
            if record is not None:
                metrics.profile(record, when)


def log_parameters(run_logger: RunLogger, network: Network) -> None:
    """Log the parameters of a trained network [R]."""
    with PROFILE.activity("files"):
        parameter_file.save(run_logger.folder / parameter_file.PARAMETERS_FILE, network)


def record_writer(run_logger: RunLogger) -> RecordWriter:
    """Return the writer of the table of all records."""
    return RecordWriter(run_logger.folder / RECORDS_FILE)


def log_figure(run_logger: RunLogger, summary: RunningSummary, name: str, theory: Mapping[str, Any] | None) -> None:
    """Log the figure of the norms by layer. The report draws all other figures from the records."""
    with PROFILE.activity("figures"):
        figure = run_plot(summary, None if theory is None else parse_theory(theory), name)
        if figure is not None:
            run_logger.figure(figure, FIGURE_FILE)


def flat_params(raw_config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """Return a resolved config as flat scalars, such as ``optimizer.learning_rate``.

    A group has the name of the option that was chosen, ``init = he_normal``. Where none was, the class stands for it.

    Args:
        raw_config: The resolved config.
        choices: The option that was chosen for a key.
    """
    params: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            if key in choices:
                params[key] = choices[key]
            elif "_target_" in value:
                params[key] = re.sub(WORD_START, "_", str(value["_target_"]).rpartition(".")[2]).lower()
            for name, inner in value.items():
                if name != "_target_":
                    walk(inner, f"{key}.{name}" if key else name)
        else:
            params[key] = value

    walk({k: v for k, v in configs.scientific(raw_config).items() if k != "probes"}, "")
    params["probes"] = ",".join(raw_config.get("probes", {}))
    return {key: value for key, value in params.items() if value != {} and len(str(value)) <= 500}


def checkpoint_folder(store: Store, run_id: str) -> Path:
    """Return the folder of a run's checkpoints."""
    return store.sidecar_dir("checkpoints") / Path(run_id).name


def remove_checkpoints(store: Store, run_id: str) -> None:
    """Remove a run's checkpoints: the run will not be resumed."""
    shutil.rmtree(checkpoint_folder(store, run_id), ignore_errors=True)
