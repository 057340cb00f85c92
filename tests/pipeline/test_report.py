"""The report: one page that needs nothing else, says what it should, and trusts nobody."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers import require
from rich.console import Console

from pipeline.errors import ConfigError
from pipeline.report import report, report_run
from pipeline.single import single
from pipeline.sweep import sweep
from pipeline.tracking import Store, TrackingConfig

SMALL = (
    "architecture=deep",
    "architecture.depth=3",
    "architecture.width=8",
    "data.subset=200",
    "epochs=2",
    "replicates=2",
)


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'x.db'}"
    quiet = Console(quiet=True)
    assert (
        single([*SMALL, "replicates=2", "probes=full", "activation=tanh", f"tracking.uri={uri}"], None, True, quiet)
        == 0
    )
    assert sweep(["experiment=explode", "replicates=2", "epochs=1", f"tracking.uri={uri}"], None, True, quiet) == 0
    return TrackingConfig(uri, "gradvitals")


def run_ids(tracking: TrackingConfig, query: str) -> list[str]:
    store = Store.open(tracking)
    return [r.info.run_id for r in store.client.search_runs([store.experiment_id], query)]


def written(tracking: TrackingConfig, to: Path, run: str | None = None, sweep_id: str | None = None) -> str:
    out = io.StringIO()
    assert report(run, sweep_id, tracking, to, Console(file=out, width=200)) == 0
    assert str(to) in out.getvalue()
    return to.read_text(encoding="utf-8")


def test_a_runs_page_needs_nothing_else_and_says_everything(tracking: TrackingConfig, tmp_path: Path) -> None:
    (run,) = run_ids(tracking, "params.activation = 'tanh'")
    html = written(tracking, tmp_path / "r.html", run=run[:12])
    page = Page(html)
    assert len(html.encode()) < 3e6
    assert page.loaded
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|https?://", html.replace("http://www.w3.org", ""))
    text = " ".join(page.text)
    for words in ("healthy", "mean-field theory", f"make reproduce RUN={run}", "accuracy", "seed"):
        assert words in text
    assert len(page.loaded) == 7, "profile, heat map, curves, activations, exponents of three quantities"
    store = Store.open(tracking)
    assert "report.html" in {a.path for a in store.client.list_artifacts(run)}


def test_the_pictures_are_pictures(tracking: TrackingConfig) -> None:
    (run,) = run_ids(tracking, "params.activation = 'tanh'")
    _, html = report_run(Store.open(tracking), run)
    for source in Page(html).loaded:
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert image.shape[0] > 250
        assert np.unique(image.reshape(-1, image.shape[-1]), axis=0).shape[0] > 50


def test_a_diverged_run_says_where(tracking: TrackingConfig, tmp_path: Path) -> None:
    run = run_ids(tracking, "tags.diverged = 'true'")[0]
    text = " ".join(Page(written(tracking, tmp_path / "d.html", run=run)).text)
    assert "Diverged:" in text
    assert "at step" in text


def test_a_sweeps_page_has_every_cell(tracking: TrackingConfig, tmp_path: Path) -> None:
    store = Store.open(tracking)
    (summary,) = store.client.search_runs([store.experiment_id], "tags.kind = 'sweep'")
    sweep_id = summary.data.tags["sweep_summary"]
    page = Page(written(tracking, tmp_path / "s.html", sweep_id=sweep_id))
    text = " ".join(page.text)
    for cell in run_ids(tracking, f"tags.sweep = '{sweep_id}'"):
        assert cell[:8] in text
    assert "exploding" in text
    assert len(page.loaded) == 2


def test_what_the_store_says_is_escaped(tracking: TrackingConfig) -> None:
    (run,) = run_ids(tracking, "params.activation = 'tanh'")
    store = Store.open(tracking)
    evil = "<script>alert(1)</script><img src=http://evil/x>"
    for tag in ("verdict", "verdict_paragraph", "seed", "mlflow.runName"):
        store.client.set_tag(run, tag, evil)
    page = Page(report_run(store, run)[1])
    assert "script" not in page.tags
    assert all(source.startswith("data:image/png") for source in page.loaded)
    assert evil in "".join(page.text)


@pytest.mark.parametrize(
    ("run", "sweep_id", "told"),
    [
        (None, None, "exactly one"),
        ("a", "b", "exactly one"),
        ("nosuchrun", None, "no such run"),
        (None, "x", "no such sweep"),
    ],
)
def test_wrong_ids(tracking: TrackingConfig, tmp_path: Path, run: str | None, sweep_id: str | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        report(run, sweep_id, tracking, tmp_path / "x.html", Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tracking: TrackingConfig, tmp_path: Path) -> None:
    run = run_ids(tracking, "tags.diverged = 'true'")[0]
    with pytest.raises(ConfigError, match="cannot be written"):
        report(run, None, tracking, tmp_path / "no" / "x.html", Console(quiet=True))


def test_a_browser_shows_the_page(tracking: TrackingConfig, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    require(bool(browser), "no Chromium on this machine")
    run = run_ids(tracking, "tags.diverged = 'false' and tags.kind = 'run'")[0]
    written(tracking, tmp_path / "b.html", run=run)
    shot = tmp_path / "b.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1200,2600", f"--screenshot={shot}", f"file://{tmp_path / 'b.html'}"]
    subprocess.run(command, capture_output=True, timeout=120, check=False)
    image = matplotlib.image.imread(shot)
    assert image.shape[:2] == (2600, 1200)
    rows_with_ink = (image[..., :3].std(axis=(1, 2)) > 0.01).mean()
    assert rows_with_ink > 0.5, "the page is more than its headline"
