"""One self-contained HTML page about a run or a sweep: verdict first, then pictures, numbers, and how to run it again.

Everything comes from the store and is untrusted: it is escaped, and no HTML of others is ever rendered as ours.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from rich.console import Console

from pipeline import config as configs
from pipeline import figures, pictures
from pipeline.errors import ConfigError
from pipeline.execution import CONFIG_FILE, DIVERGENCE_FILE, RECORDS_FILE, THEORY_FILE
from pipeline.statistics import Estimate
from pipeline.summary import Summary, show
from pipeline.tracking import Store, TrackingConfig, download

ORIGIN = (
    "git.commit",
    "git.dirty",
    "config.sha256",
    "data.sha256",
    "seed",
    "python",
    "package.numpy",
    "blas",
    "processor",
)


def report(run: str | None, sweep: str | None, tracking: TrackingConfig, to: Path | None, console: Console) -> int:
    """Write the page to a file and log it beside what it is about.

    Raises:
        ConfigError: not exactly one of run and sweep, neither known, or a file that cannot be written.
    """
    if (run is None) == (sweep is None):
        raise ConfigError("RUN or SWEEP: exactly one of the two must be given")
    tracking.existing_uri()
    store = Store.open(tracking)
    about, page = report_run(store, str(run)) if run else report_sweep(store, str(sweep))
    path = to or Path(f"report-{(sweep or about)[:40]}.html")
    _write(path, page)
    store.client.log_text(about, page, "report.html")
    console.print(f"{path.resolve()} ({len(page.encode()) / 1e6:.2f} MB)", soft_wrap=True, highlight=False)
    return 0


def _write(path: Path, page: str) -> None:
    """Whole or not at all."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.resolve().parent, delete=False, encoding="utf-8") as file:
            file.write(page)
        Path(file.name).replace(path)
    except OSError as failure:
        raise ConfigError(f"TO={path}: cannot be written ({failure.strerror})") from failure


def _page(**parts: Any) -> str:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True)
    return environment.get_template("report.html.j2").render(**parts)


def _picture(figure: Figure | None, caption: str) -> list[dict[str, str]]:
    if figure is None:
        return []
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return [{"caption": caption, "data": base64.b64encode(buffer.getvalue()).decode()}]


class Logged:
    """What a run left in the store."""

    def __init__(self, store: Store, run: Any) -> None:
        self.run = run
        with tempfile.TemporaryDirectory() as folder:
            names = {a.path for a in store.client.list_artifacts(run.info.run_id)}
            config = download(store, run.info.run_id, CONFIG_FILE, Path(folder)).read_text(encoding="utf-8")
            try:
                self.table = pd.read_parquet(download(store, run.info.run_id, RECORDS_FILE, Path(folder)))
            except (OSError, ValueError) as broken:
                raise ConfigError(f"{RECORDS_FILE} of run {run.info.run_id}: is not readable parquet") from broken
            self.theory = self._json(store, THEORY_FILE, names, folder)
            self.findings = self._json(store, DIVERGENCE_FILE, names, folder)
        self.node: dict[str, Any] = yaml.safe_load(config)
        geometric = dict.fromkeys(_magnitudes(self.table), True)
        layers = [int(n) for n in self.table["layer"].dropna().unique()]
        self.summary: Summary = pictures.summary_of(self.table, max(layers, default=1) - 1, geometric)

    def _json(self, store: Store, name: str, names: set[str], folder: str) -> Any:
        if name not in names:
            return None
        text = download(store, self.run.info.run_id, name, Path(folder)).read_text(encoding="utf-8")
        return json.loads(text)


def _magnitudes(table: pd.DataFrame) -> list[str]:
    """Probes that are averaged as logarithms: those that speak of sizes."""
    ends = ("_norm", "_rms", "_square", "_to_weight", "_ratio", "_local", "_mean", "_max", "_min", "_condition")
    return [p for p in table["probe"].unique() if p.endswith(ends) and p != "activation_mean"]


def report_run(store: Store, run_id: str) -> tuple[str, str]:
    """The run's id and its page."""
    logged = Logged(store, store.find(run_id))
    run, summary = logged.run, logged.summary
    name, tags = str(run.info.run_name), run.data.tags
    headline = summary.headline()
    drawn = [
        *_picture(
            figures.profile(summary, name, logged.theory),
            "δ of one example and the batch's weight gradient against layer, with the replicates' 95% interval; "
            "dashed, δ as mean-field theory expects it, with the grey 95% band of a single example at this width.",
        ),
        *_picture(
            figures.heat_map(summary, "delta_rms", "log₁₀ δ"), "How δ of each layer changes while the network learns."
        ),
        *_picture(
            pictures.curves(summary), "Cost and score while the network learns, with the replicates' 95% interval."
        ),
        *_picture(
            pictures.activations(summary),
            "Activations, and the shares of saturated and dead units, before and after training.",
        ),
    ]
    for probe in ("gradient_exponents", "delta_exponents", "weight_exponents"):
        words = probe.replace("_exponents", "")
        caption = f"Floating-point exponents of the {words}s of the first, a middle and the last layer while training."
        drawn += _picture(pictures.exponents(logged.table, probe, f"{words}: share by exponent"), caption)
    return run.info.run_id, _page(
        title=f"gradvitals: {name}",
        subtitle=f"run {run.info.run_id}, {configs.scientific(logged.node)['replicates']} replicates",
        verdict=tags.get("verdict"),
        paragraph=tags.get("verdict_paragraph", ""),
        findings=[_finding(f) for f in logged.findings or []],
        pictures=drawn,
        heads=["quantity", "mean [95% interval]"],
        rows=[[key.replace("_", " "), show(value)] for key, value in headline.items()],
        again=f"make reproduce RUN={run.info.run_id}",
        origin=[(key, tags[key]) for key in ORIGIN if key in tags],
        config=yaml.safe_dump(logged.node, sort_keys=False),
    )


def _finding(f: Mapping[str, Any]) -> str:
    where = f" of layer {f['layer']}" if f.get("layer") else ""
    return f"replicate {f['replicate']} at step {f['step']}: {f['quantity']}{where} = {f['operation']} was not finite"


QUANTITIES = {
    "decades_lost_per_layer_delta_rms_start": "decades of δ lost per layer",
    "final_accuracy_test": "test accuracy",
    "final_r2_test": "test R²",
    "diverged_fraction": "diverged fraction",
}


def report_sweep(store: Store, sweep_id: str) -> tuple[str, str]:
    """The id of the sweep's summary run and the sweep's page.

    Raises:
        ConfigError: no such sweep.
    """
    quoted = sweep_id.replace("'", "")
    experiments = [e.experiment_id for e in store.client.search_experiments()]
    summaries = store.client.search_runs(experiments, f"tags.sweep_summary = '{quoted}'")
    if not summaries:
        raise ConfigError(f"SWEEP={sweep_id}: no such sweep in {store.uri}")
    summary, name = summaries[0], str(summaries[0].info.run_name)
    with tempfile.TemporaryDirectory() as folder:
        table = pd.read_csv(download(store, summary.info.run_id, "sweep.csv", Path(folder)), dtype=str)
    keys = [k for k in str(summary.data.params.get("swept", "")).split(", ") if k in table]
    shown = [q for q in QUANTITIES if q in table]
    numbers = table.assign(**{q: pd.to_numeric(table[q], errors="coerce") for q in shown})
    profiles = []
    for run_id in table["run_id"]:
        logged = Logged(store, store.client.get_run(run_id)) if _finished(store, run_id) else None
        profiles.append((_label(table, run_id, keys), logged.summary.at("delta_rms", 0) if logged else None))
    swept = [dict(zip(keys, row, strict=True)) for row in table[keys].itertuples(index=False)]
    colours = figures.run_colours(swept)
    drawn = [
        *_picture(
            figures.overlay(profiles, colours, "start of training"), "δ of one example against layer in every run."
        ),
        *_picture(
            pictures.heat_maps(numbers, keys, {q: QUANTITIES[q] for q in shown}),
            "Decades of δ lost per layer (negative: gained), score and diverged runs over the swept keys.",
        ),
    ]
    rows = [
        [
            *(str(row[k]) for k in keys),
            str(row.get("verdict", "")),
            *(_cell(row, q) for q in shown),
            str(row["run_id"])[:8],
        ]
        for _, row in table.iterrows()
    ]
    return summary.info.run_id, _page(
        title=f"gradvitals: {name}",
        subtitle=f"sweep {sweep_id}, {len(table)} runs",
        verdict=_verdicts(table),
        paragraph="",
        findings=[],
        pictures=drawn,
        heads=[*(k.rpartition(".")[2] for k in keys), "verdict", *(QUANTITIES[q] for q in shown), "run"],
        rows=rows,
        again="make reproduce RUN=<id>",
        origin=[],
        config=None,
    )


def _finished(store: Store, run_id: str) -> bool:
    return any(a.path == RECORDS_FILE for a in store.client.list_artifacts(run_id))


def _label(table: pd.DataFrame, run_id: str, keys: Sequence[str]) -> str:
    row = table[table["run_id"] == run_id].iloc[0]
    return ", ".join(str(row[k]) for k in keys)


def _cell(row: pd.Series[Any], quantity: str) -> str:
    mean, low, high = (np.array(float(row.get(f"{quantity}{end}", np.nan))) for end in ("", "_low", "_high"))
    return show(Estimate(mean, low, high, np.array(0.0)))


def _verdicts(table: pd.DataFrame) -> str:
    """How many runs of each verdict."""
    return ", ".join(f"{count} {name}" for name, count in table["verdict"].value_counts().items())
