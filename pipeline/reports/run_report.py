"""The report of a run or a sweep: verdict, figures, numbers, and the command that reproduces them.

It is written from the store alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np

from pipeline.analysis.estimates import show
from pipeline.analysis.summary import Summary
from pipeline.errors import ConfigError
from pipeline.reports import html
from pipeline.reports.figures.curves import SETS, learning_figure, unit_figure
from pipeline.reports.figures.exponents import QUANTITIES, exponent_figure
from pipeline.reports.figures.heatmaps import layer_by_step_figures
from pipeline.reports.figures.profiles import profile_figure
from pipeline.reports.figures.style import ReportFigure
from pipeline.reports.outputs import check_output, parse_output, write_output
from pipeline.reports.sweep_report import find_sweep, report_sweep
from pipeline.tracking.logged_run import LoggedRun
from pipeline.tracking.safe_reading import parse_yaml
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.tracking.tags import CONFIG_FILE, RECORDS_FILE
from pipeline.wording import command, counted, option

__all__ = ["report", "report_run", "report_sweep"]

ARTIFACT = "report.html"
ELSEWHERE = "the network was trained elsewhere: its measurements come from a table, and there is no config to run again"


def report(run: str | None, sweep: str | None, tracking: TrackingConfig, to: Path | None, force: bool = False) -> Path:
    """Write the page of a run or a sweep, and log it as an artifact.

    Args:
        run: Id of a run, or its first 8 or more characters.
        sweep: Id of a sweep.
        tracking: The store.
        to: The file, or a folder for ``report-<id>.html``; None for the current folder.
        force: Whether to replace a file that was not written here.

    Returns:
        The path of the page.

    Raises:
        ConfigError: If the run or sweep does not exist, its records are not readable, or the file is not writable.
    """
    if (run is None) == (sweep is None):
        one_of = f"{option('run', '<run id>')} and {option('sweep', '<sweep id>')}"
        raise ConfigError(f"report: exactly one of {one_of} must be given")
    tracking.existing_uri()
    store = Store.open(tracking)
    if run is not None:
        owner: str | None = str(store.find(run).info.run_id)
        target = _target(to, str(owner), force)
        text = report_run(store, str(owner))
    else:
        summary, _ = find_sweep(store, str(sweep))
        owner = None if summary is None else str(summary.info.run_id)
        target = _target(to, str(sweep), force)
        text = report_sweep(store, str(sweep))
    write_output(text.encode(), target, force)
    if owner is not None:
        store.client.log_text(owner, text, ARTIFACT)
    return target


def _target(to: Path | None, name: str, force: bool) -> Path:
    """Return the file to write. A missing folder or a foreign file is reported before anything is drawn."""
    path = Path.cwd() if to is None else parse_output(to)
    if path.is_dir():
        path = path / f"report-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:100]}.html"
    if not path.parent.is_dir():
        raise ConfigError(f"TO={to}: there is no folder {path.parent}")
    check_output(path, force)
    return path


def report_run(store: Store, run_id: str) -> str:
    """Return the page of a run.

    Raises:
        ConfigError: If the run does not exist or its records are not readable.
    """
    run = store.find(run_id)
    if run.data.tags.get("kind") == "sweep":
        its_report = option("sweep", str(run.data.tags.get("sweep_summary")))
        raise ConfigError(f"run {run_id}: is a sweep's summary; {its_report} is its report")
    return page_of(LoggedRun.from_store(store, run).require(RECORDS_FILE))


def page_of(logged: LoggedRun) -> str:
    """Return the page of a run that was read from a store or an exported folder."""
    summary, has_config = logged.summary(), logged.files.has(CONFIG_FILE)
    return html.render(
        title=logged.name,
        kind="run",
        facts=_run_facts(logged),
        verdict=logged.verdict,
        paragraph=logged.explanation or _description(logged.tags),
        tiles=_tiles(logged, summary),
        notes=[*html.foreign(logged.tags), *([] if has_config else [ELSEWHERE]), *logged.notes],
        pictures=html.template_figures(run_figures(logged, summary)),
        numbers=_numbers(logged, summary),
        findings=logged.findings,
        command=command("reproduce", run=logged.run_id) if has_config else "",
        origin=html.origin(logged.provenance),
        config=html.config_text(logged.config),
    )


def run_figures(logged: LoggedRun, summary: Summary) -> list[ReportFigure]:
    """Return all figures that the records allow."""
    figures = [profile_figure(summary, logged.theory), *layer_by_step_figures(summary)]
    figures += [exponent_figure(logged.records, p, QUANTITIES.get(p, p)) for p in _histograms(logged)]
    figures += [unit_figure(summary, logged.theory), learning_figure(summary)]
    return [figure for figure in figures if figure is not None]


def _histograms(logged: LoggedRun) -> list[str]:
    """Return the recorded histograms by exponent, known by name or by their class in the config."""
    try:
        probes = parse_yaml(logged.config, "")["probes"]
        named = {n for n, p in probes.items() if str(p["_target_"]).endswith(".ExponentHistogram")}
    except (ConfigError, TypeError, KeyError, AttributeError):
        named = set()
    recorded = logged.records.loc[logged.records["bin"].notna(), "probe"].unique()
    return [str(probe) for probe in recorded if probe in named | set(QUANTITIES)]


OPTIMIZERS = {"sgd": "SGD", "s_g_d": "SGD", "adam": "Adam"}  # the second is in runs of older versions


def _run_facts(logged: LoggedRun) -> list[str]:
    """Return the facts below the title of the page."""
    p = logged.params
    facts = [
        f"layers {_folded(p['layer_sizes'])}" if "layer_sizes" in p else "",
        f"{p['activation']}, then {p['output']}" if {"activation", "output"} <= set(p) else "",
        p.get("cost", "").replace("_", " "),
        OPTIMIZERS.get(p.get("optimizer", ""), p.get("optimizer", "")).replace("_", " "),
        f"learning rate {p['optimizer.learning_rate']}" if "optimizer.learning_rate" in p else "",
        counted(p["steps"], "step") if "steps" in p else counted(p["epochs"], "epoch") if "epochs" in p else "",
        counted(logged.replicates, "replicate"),
        logged.start_time,
        f"run {logged.run_id}",
        "" if logged.status == "FINISHED" else logged.status.lower(),
    ]
    return [fact for fact in facts if fact]


def _folded(sizes: str) -> str:
    """Shorten layer sizes: '64-20×30-10' for 64 inputs, 20 layers of 30 units, 10 outputs."""
    first, *rest = sizes.split("-")
    groups = [(size, len(list(same))) for size, same in groupby(rest)]
    return "-".join([first, *(f"{n}×{size}" if n > 2 else "-".join([size] * n) for size, n in groups)])


def _description(tags: Mapping[str, str]) -> str:
    """Return the first paragraph of the run's description, without Markdown."""
    return re.sub(r"[*`]", "", tags.get("mlflow.note.content", "").split("\n\n")[0])


class Tile(dict[str, str]):
    """A number at the top of the page."""

    def __init__(self, value: str, name: str, interval: str = "") -> None:
        super().__init__(value=value, name=name, interval=interval)


def _tiles(logged: LoggedRun, summary: Summary) -> list[Tile]:
    """Return the numbers at the top of the page."""
    headline, tiles = summary.headline(), []
    if summary.steps("delta_rms")[1:] == []:
        headline.pop("decades_lost_delta_rms_end", None)  # the run was not trained
    for key, name in (
        ("decades_lost_delta_rms_start", "decades of δ lost, start"),
        ("decades_lost_delta_rms_end", "decades of δ lost, end"),
        ("final_accuracy_test", f"test accuracy, {_evaluated(summary, 'accuracy/test')}"),
        ("final_r2_test", f"test R², {_evaluated(summary, 'r2/test')}"),
    ):
        if key in headline:
            value, _, interval = show(headline[key]).partition(" [")
            tiles.append(Tile(value, name, f"[{interval}" if interval else ""))
    if logged.findings or logged.metrics.get("diverged_fraction"):
        tiles.append(Tile(f"{logged.metrics.get('diverged_fraction', np.nan):.0%}", "of the replicates diverged"))
    return tiles


NAMES = {"delta_rms": "δ", "gradient_norm": "the weight gradient ‖∂C/∂W‖", "r2": "R²"}


def _evaluated(summary: Summary, quantity: str) -> str:
    """Return when a quantity was last evaluated: a diverged run stops without a last evaluation."""
    steps = summary.steps(quantity)
    ended = not steps or steps[-1] == summary.records[-1].step
    return "end of training" if ended else f"last evaluated at step {steps[-1]}"


def _in_words(key: str, summary: Summary) -> str:
    """Return 'decades of δ lost per layer, start of training' for 'decades_lost_per_layer_delta_rms_start'."""
    match = re.fullmatch(r"decades_lost_(per_layer_)?(.*)_(start|end)", key)
    if match:
        name = NAMES.get(match[2], match[2])
        return f"decades of {name} lost{' per layer' if match[1] else ''}, {match[3]} of training"
    match = re.fullmatch(rf"final_(.*)_({'|'.join(SETS)})", key)
    if match:
        return f"{NAMES.get(match[1], match[1])}, {SETS[match[2]]} set, {_evaluated(summary, f'{match[1]}/{match[2]}')}"
    return key.replace("_", " ")


def _numbers(logged: LoggedRun, summary: Summary) -> list[dict[str, str]]:
    """Return the rows of the table of final numbers."""
    rows = [{"name": _in_words(key, summary), "key": key, "value": show(e)} for key, e in summary.headline().items()]
    for key in ("diverged_fraction", "non_finite_values"):
        if key in logged.metrics:
            rows.append({"name": key.replace("_", " "), "key": key, "value": f"{logged.metrics[key]:g}"})
    return rows
