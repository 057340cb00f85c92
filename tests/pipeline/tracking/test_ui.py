"""MLflow's pages, as a real browser with a fresh profile shows them, and the links to them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from support.browser import CHROMIUM, fresh_page
from support.commands import sweep_command
from support.configs import config, require
from support.servers import answers, free_port, until
from support.stores import empty, opened, uri

from pipeline.tracking.chart_view import sweep_view
from pipeline.tracking.metric_names import metric_names
from pipeline.tracking.ui import prepare_server
from pipeline.training.prepare import prepare_run

pytestmark = pytest.mark.xdist_group("ui")

PROJECT = Path(__file__).resolve().parents[3]
SECTIONS = ["log₁₀ norm, x: layer", "Learning, x: step"]


@contextmanager
def served(address: str) -> Iterator[str]:
    """Run ``python -m pipeline ui`` on a free port; yield the address of its start page."""
    port = free_port()
    command = [sys.executable, "-m", "pipeline", "ui", "--uri", address, "--port", str(port)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: answers(port), "the server")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=30)


class Pages(NamedTuple):
    """The address of a server, the link that a sweep printed, and the folder of the store."""

    base: str
    charts: str
    folder: Path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    require(CHROMIUM is not None, "needs Chromium")
    folder = tmp_path_factory.mktemp("pages")
    address = empty(uri(folder))
    shown = sweep_command("experiment=depth", "epochs=0", "replicates=2", f"tracking.uri={address}")
    link = next(line for line in shown.text.splitlines() if "viewStateShareKey" in line)
    with served(address) as base:
        yield Pages(base, base + link.removeprefix("http://127.0.0.1:5000"), folder)


@pytest.mark.thorough
def test_sweep_link_opens_charts_of_all_runs(pages: Pages, tmp_path: Path) -> None:
    """All twelve runs have curves in the first charts (MLflow alone shows ten), and no title is cut."""
    with fresh_page(tmp_path / "profile") as page:
        page.open(pages.charts)
        for section in SECTIONS:
            page.until(f"texts({json.dumps(section)}).some(e => e.scrollWidth <= e.clientWidth)")
        page.until("document.querySelectorAll('h4').length >= 2")
        page.until("[...document.querySelectorAll('h4')].every(e => e.scrollWidth <= e.clientWidth)")
        titles = page.value("[...document.querySelectorAll('h4')].map(e => e.innerText)")
        assert titles[:2] == ["δ, start", "δ, end"]
        for activation in ("sigmoid", "tanh", "relu"):
            for depth in (2, 5, 10, 20):
                curve = f"{activation} d{depth} (log10_delta_rms_by_layer/start)"
                page.until(f"document.documentElement.innerHTML.includes({json.dumps(curve)})")
        assert not page.value("document.documentElement.innerText.includes('Error loading shared view')")


@pytest.mark.thorough
def test_run_page_shows_the_verdict_first_and_its_metrics_begin_with_gradient_norms(
    pages: Pages, tmp_path: Path
) -> None:
    """Both without scrolling, at 1400 × 900."""
    store = opened(pages.folder)
    (run,) = store.search("attributes.run_name = 'sigmoid d20'")
    verdict, decades = (run.data.tags[name] for name in ("verdict", "decades"))
    tags = "[...document.querySelectorAll('[role=status][title]')]"
    with fresh_page(tmp_path / "profile", (1400, 900)) as page:
        page.open(pages.base + store.run_link(run.info.run_id))
        page.until(f"{tags}.length")
        assert page.value(f"{tags}.slice(0, 2).map(e => e.innerText.replace(/\\s+/g, ' '))") == [
            f"verdict : {verdict}",
            f"decades : {decades}",
        ]
        assert page.value(f"{tags}.every(isShown) && {tags}.length <= 12")
        page.open(pages.base + store.run_link(run.info.run_id, "/model-metrics"))
        page.until("document.querySelectorAll('h4').length >= 3")
        page.until("texts('Gradient norm by layer log10').some(isShown)")
        assert page.value("[...document.querySelectorAll('h4')].map(e => e.innerText).slice(0, 3)") == [
            "end",
            "start",
            "layer_01",
        ]


def test_gradient_norms_are_the_first_sections_in_mlflows_order() -> None:
    """MLflow's sections are what stands before the last slash, sorted by character code."""
    run = prepare_run(config("data=iris", "replicates=2"))
    sections = sorted({name.rpartition("/")[0] for name in metric_names(run, "summary") if "/" in name})
    assert sections[:2] == ["Gradient norm by layer log10", "Gradient norm log10"]


def test_titles_of_charts_and_sections_are_short_enough_to_be_shown_whole() -> None:
    view = json.loads(sweep_view("", "accuracy/test"))
    assert [section["name"] for section in view["compareRunSections"]] == SECTIONS
    assert max(len(section["name"]) for section in view["compareRunSections"]) <= 20
    assert max(len(chart["displayName"]) for chart in view["compareRunCharts"]) <= 13


def test_ui_prints_the_charts_of_the_sweep_that_ended_last_with_its_own_port(tmp_path: Path) -> None:
    store = opened(tmp_path)
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    assert prepare_server(uri(tmp_path), port).lines() == [f"all runs: {page} (Ctrl-C ends it)"]
    for sweep_id in ("first", "second", "first"):  # the first one is run again
        with store.start(sweep_id, {"kind": "sweep", "sweep_summary": sweep_id}) as summary:
            link = store.save_chart_view(sweep_id, "{}")
            summary.end("FINISHED")
        assert prepare_server(uri(tmp_path), port).lines()[:2] == [
            f"charts of the newest sweep, {sweep_id}:",
            f"{page}{link}",
        ]
