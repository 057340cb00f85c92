"""One run with all its side effects: trains, and tells the tracker everything. The impure shell around ``train``."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from threadpoolctl import threadpool_limits

from pipeline import config as configs
from pipeline import figures
from pipeline.progress import Bars
from pipeline.provenance import provenance
from pipeline.records import Record, tidy
from pipeline.statistics import Estimate, estimate
from pipeline.summary import PROFILED, Summary, non_finite, show
from pipeline.tracking import RunLog, Store
from pipeline.training import ready, train

CONFIG_FILE = "config.yaml"
RECORDS_FILE = "records.parquet"
log = logging.getLogger("gradvitals")
log.setLevel(logging.INFO)


@dataclass
class Outcome:
    """How one run ended.

    Attributes:
        status: FINISHED or FAILED.
        headline: its final numbers by metric name, with intervals.
        error: the last line of the traceback of a failed run.
        profile: δ of each layer at the start, if it was recorded.
    """

    name: str
    run_id: str
    swept: Mapping[str, str]
    status: str = "RUNNING"
    headline: dict[str, Estimate] = field(default_factory=dict)
    error: str | None = None
    profile: Record | None = None


def execute(
    node: Mapping[str, Any], store: Store, name: str, swept: Mapping[str, str], tags: Mapping[str, str], bars: Bars
) -> Outcome:
    """Train the run that a resolved config describes and log it; a failure is logged and returned, not raised.

    Interrupted (Ctrl-C, SIGTERM), the run is closed as KILLED and the interruption goes on.
    """
    run_log = store.start(name, tags)
    outcome = Outcome(name, run_id=run_log.run_id, swept=swept)
    with _logged(run_log):
        try:
            with threadpool_limits(1):
                _train_and_log(node, run_log, outcome, bars)
            outcome.status = "FINISHED"
        except Exception as failure:
            outcome.status = "FAILED"
            outcome.error = traceback.format_exception_only(failure)[-1].strip()
            log.exception("the run failed")
            run_log.text(traceback.format_exc(), "traceback.txt")
            run_log.tags({"mlflow.note.content": f"**Failed.**\n\n```\n{traceback.format_exc()[-4000:]}\n```"})
        except BaseException:
            log.warning("interrupted")
            run_log.end("KILLED")
            raise
    run_log.end(outcome.status)
    return outcome


@contextlib.contextmanager
def _logged(run_log: RunLog) -> Iterator[None]:
    """Collect what is logged meanwhile in the run's own ``run.log``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.log"
        handler = logging.FileHandler(path, encoding="utf-8", delay=False)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()
            run_log.file(path)


def _train_and_log(node: Mapping[str, Any], run_log: RunLog, outcome: Outcome, bars: Bars) -> None:
    config = configs.build(node)
    run = ready(config)
    origin = provenance()
    run_log.params(flat_params(node) | {"layer_sizes": "-".join(map(str, run.sizes))})
    run_log.tags(
        origin.tags | {"config.sha256": configs.digest(node), "data.sha256": run.data.digest, "seed": str(config.seed)}
    )
    run_log.text(yaml.safe_dump(dict(node), sort_keys=False), CONFIG_FILE)
    run_log.text(origin.packages, "packages.txt")
    if origin.patch:
        run_log.text(origin.patch, "uncommitted.patch")
    log.info("layers %s, %d training examples, %d steps", run.sizes, run.data.train.shape[1], run.clock.last_step)
    summary = Summary(hidden_layers=len(run.sizes) - 2)
    with bars.run(outcome.name, run.clock.last_step) as on_step:
        for record in train(run, on_step):
            summary.add(record)
            log_record(run_log, record)
    log_profiles(run_log, summary)
    outcome.headline, outcome.profile = summary.headline(), summary.at("delta_rms", 0)
    for key, value in outcome.headline.items():
        run_log.metric(key, float(value.mean), run.clock.last_step)
    lost = non_finite(summary.records)
    run_log.metric("non_finite_values", lost, run.clock.last_step)
    log.info("%d values recorded, %d not finite", sum(r.values.size for r in summary.records), lost)
    _log_files(run_log, summary, outcome.name)
    run_log.tags({"mlflow.note.content": describe(outcome, config, run.sizes, lost)})


def log_record(run_log: RunLog, record: Record) -> None:
    """A record as metrics: the mean over replicates ``probe/layer_01`` and its interval ``interval_low/probe/...``."""
    e = estimate(record.values, record.geometric)
    keys = [f"{record.probe}/layer_{number:02d}" for number in record.layers] or [record.probe]
    for i, key in enumerate(keys):
        run_log.metric(key, float(e.mean[i]), record.step)
        run_log.metric(f"interval_low/{key}", float(e.low[i]), record.step)
        run_log.metric(f"interval_high/{key}", float(e.high[i]), record.step)


def log_profiles(run_log: RunLog, summary: Summary) -> None:
    """log10 of the main norms with the layer as the metric's step: the UI then draws norm against layer."""
    for probe in PROFILED:
        for index, when in ((0, "start"), (-1, "end")):
            record = summary.at(probe, index)
            if record is not None:
                means = estimate(record.values, record.geometric).mean
                for number, mean in zip(record.layers, means, strict=True):
                    if mean > 0:
                        run_log.metric(f"log10_{probe}_by_layer/{when}", float(np.log10(mean)), number)


def _log_files(run_log: RunLog, summary: Summary, name: str) -> None:
    pictures = {"gradient_norm_by_layer.png": figures.profile(summary, name)}
    for probe in ("delta_rms", "gradient_norm"):
        pictures[f"{probe}_layer_by_step.png"] = figures.heat_map(summary, probe, f"{name}: log₁₀ {probe}")
    for file_name, figure in pictures.items():
        if figure is not None:
            run_log.figure(figure, file_name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RECORDS_FILE
        tidy(summary.records).to_parquet(path, index=False)
        run_log.file(path)


def flat_params(node: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config as flat scalars: ``optimizer.learning_rate``; a class stands for its group: ``activation``."""
    found: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            if "_target_" in value:
                found[key] = re.sub(r"(?<!^)(?=[A-Z])", "_", str(value["_target_"]).rpartition(".")[2]).lower()
            for name, inner in value.items():
                if name != "_target_":
                    walk(inner, f"{key}.{name}" if key else name)
        else:
            found[key] = value

    walk({k: v for k, v in configs.scientific(node).items() if k != "probes"}, "")
    found["probes"] = ",".join(node.get("probes", {}))
    return {key: value for key, value in found.items() if value != {} and len(str(value)) <= 500}


def describe(outcome: Outcome, config: configs.Config, sizes: list[int], lost: int) -> str:
    """The Markdown at the top of the run's page."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {show(value)} |" for name, value in outcome.headline.items())
    table = f"\n\n| quantity | mean [95% interval] |\n|---|---|\n{rows}" if rows else ""
    warning = f"\n\n{lost} recorded values are not finite; `{RECORDS_FILE}` keeps them." if lost else ""
    return (
        f"**{outcome.name}**: layers {'-'.join(map(str, sizes))}, {type(config.activation).__name__} then "
        f"{type(config.output).__name__}, {type(config.cost).__name__}, {config.epochs} epochs, "
        f"{config.replicates} replicates from seed {config.seed}.{table}{warning}\n\n"
        "Decades lost: log₁₀ of the norm in the last hidden layer over the first; positive means it vanishes towards "
        f"the input.\n\nRun it again: `make reproduce RUN={outcome.run_id}`"
    )
