"""Reports: self-contained pages that show what the store holds and treat all of it as untrusted."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from support.commands import invoke, run_command, sweep_command
from support.configs import config, require

from engine.exponents import INFINITE, NAN, SUBNORMAL, ZERO
from pipeline.errors import ConfigError
from pipeline.reports.figures.exponents import exponent_figure
from pipeline.reports.figures.heatmaps import swept_figures
from pipeline.reports.figures.quantities import Quantity
from pipeline.reports.figures.style import Curve, layer_ticks, limits, log_label, log_ticks, plot_label
from pipeline.reports.outputs import write_output
from pipeline.reports.run_report import report, report_run, report_sweep
from pipeline.tracking.artifact_parsers import records_of
from pipeline.tracking.logged_run import HEADLINE_PROBES, LoggedRun
from pipeline.tracking.store import RunLogger, Store, TrackingConfig
from pipeline.training.loop import run as train
from pipeline.training.records import Record, tidy

pytestmark = pytest.mark.xdist_group("run_report")

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>$\\frac{1}{$ & \"'"
MEGABYTE = 1_000_000


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def images(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]

    def headings(self) -> int:
        return sum(tag == "h2" for tag, _ in self.elements)

    def check(self, html: str) -> None:
        """Check that the page is well formed, small, self-contained, and inert."""
        assert self.open == []
        assert len(html.encode()) < 3 * MEGABYTE
        assert not {"script", "iframe", "object", "embed", "link", "form", "base", "svg"} & {
            t for t, _ in self.elements
        }
        for tag, attributes in self.elements:
            assert not any(name.startswith("on") for name in attributes), tag
            assert not {"href", "srcset", "data", "action", "style"} & set(attributes), tag
            source = attributes.get("src", "data:image/")
            assert source.startswith("data:image/"), source[:80]
        styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.S))
        assert styles
        assert not re.search(r"url\(|@import|https?:", styles)
        policy = [a["content"] for _, a in self.elements if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def checked(html: str) -> Page:
    page = Page(html)
    page.check(html)
    return page


def drawing(image: dict[str, str]) -> str:
    """Return the SVG in an image."""
    kind, _, data = image["src"].partition(";base64,")
    assert kind == "data:image/svg+xml"
    return base64.b64decode(data).decode()


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """Return a store with a run of all probes, a sweep over two keys, and a sweep that diverges."""
    config = TrackingConfig(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}", "gradvitals")
    where = f"tracking.uri={config.uri}"
    everything = ["experiment=smoke", "probes=full", "architecture.depth=4", "epochs=2", "schedule=each_epoch"]
    assert run_command(*everything, "replicates=3", "name=everything", where).code == 0
    small = ["experiment=smoke", "architecture.depth=2,4", "epochs=1"]
    assert sweep_command(*small, "name=two_keys", where).code == 0
    assert sweep_command("experiment=explode", "data.subset=200", "replicates=2", where).code == 0
    return config


def open_store(tracking: TrackingConfig) -> Store:
    return Store.open(tracking)


def search(tracking: TrackingConfig, query: str) -> list[Any]:
    store = open_store(tracking)
    return list(store.client.search_runs([store.experiment_id], query))


def full_run(tracking: TrackingConfig) -> Any:
    (run,) = [r for r in search(tracking, "tags.diverged = 'false'") if "sweep" not in r.data.tags]
    return run


@pytest.fixture(scope="module")
def html(tracking: TrackingConfig) -> str:
    """Return the page of the full run."""
    return report_run(open_store(tracking), full_run(tracking).info.run_id)


def sweep_id(tracking: TrackingConfig, name: str) -> str:
    (summary,) = search(tracking, f"tags.kind = 'sweep' and attributes.run_name = 'sweep {name}'")
    return str(summary.data.tags["sweep_summary"])


def artifacts(tracking: TrackingConfig, run_id: str) -> set[str]:
    return {a.path for a in open_store(tracking).client.list_artifacts(run_id)}


def copy_of(tracking: TrackingConfig, folder: Path, without: str = "") -> RunLogger:
    """Return a second run with part of the artifacts of the full run, for a test to damage."""
    store, original = open_store(tracking), full_run(tracking)
    copy = store.start("copy", {"kind": "run"})
    copy.params(original.data.params)
    for name in ("config.yaml", "records.parquet", "theory.json"):
        if name == without:
            continue
        path = Path(store.client.download_artifacts(original.info.run_id, name, str(folder)))
        if name == "records.parquet":
            pd.read_parquet(path, filters=[("probe", "in", HEADLINE_PROBES)]).to_parquet(path, index=False)
        copy.file(path)
    copy.send()
    return copy


# The page of a run


@pytest.mark.thorough
def test_run_page_is_self_contained_and_complete(tracking: TrackingConfig, html: str) -> None:
    run = full_run(tracking)
    page = checked(html)
    sections = re.findall(r"<h2>(.*?)</h2>", html)
    assert sections == [
        "The gradient in every layer",
        "δ while the network learns",
        "The weight gradient while the network learns",
        "Where the numbers lie: weight gradients ∂C/∂W",
        "Where the numbers lie: errors δ",
        "Where the numbers lie: activations a",
        "Where the numbers lie: weights W",
        "What the units do",
        "What was learned",
        "Final numbers",
        "Run it again",
    ]
    images = page.images()
    assert len(images) == 9
    for image in images:
        assert len(image["alt"]) > 60
        assert drawing(image).count("<path") + drawing(image).count("<image") > 20
    assert len(re.findall("<figcaption>[^<]{60,}</figcaption>", html)) == 9
    logged = LoggedRun.from_store(open_store(tracking), run)
    facts = logged.provenance
    for text in (
        logged.explanation.replace("`", ""),
        f"gradvitals reproduce {run.info.run_id}",
        facts["git.commit"],
        facts["config.sha256"],
        facts["data.sha256"],
        f"numpy {facts['package.numpy']}",
        "3 replicates",
        "layers 64-4×8-10",
        "_target_: engine.activations.Sigmoid",
        "decades_lost_delta_rms_start",
    ):
        assert text in page.text
    assert html.index("verdict") < html.index("<figure") < html.index("Final numbers") < html.index("Resolved config")


def is_rounded(number: float, text: str) -> bool:
    """Return whether a text is the number with fewer decimals."""
    return text == f"{number:z.{len(text.partition('.')[2])}f}"


def test_run_page_shows_numbers_of_the_store(tracking: TrackingConfig, html: str) -> None:
    run, page = full_run(tracking), checked(html)
    for key in ("decades_lost_delta_rms_start", "decades_lost_per_layer_gradient_norm_end", "final_accuracy_test"):
        shown = re.search(rf"<td>([^<]*) \[[^<]*</td><td><code class=\"key\">{key}<", html)
        assert shown is not None
        assert is_rounded(run.data.metrics[key], shown[1])
    history = open_store(tracking).client.get_metric_history(run.info.run_id, "delta_rms/layer_01")
    first = min(history, key=lambda m: m.step).value
    assert f"δ at the start is {first:.2g} in layer 1" in page.images()[0]["alt"]


@pytest.mark.thorough
def test_pages_are_deterministic(tracking: TrackingConfig, html: str) -> None:
    run_id, one = full_run(tracking).info.run_id, sweep_id(tracking, "two_keys")
    assert report_run(open_store(tracking), run_id[:8]) == html
    assert report_sweep(open_store(tracking), one) == report_sweep(open_store(tracking), one)


@pytest.mark.thorough
def test_theory_is_drawn_if_it_was_logged(tracking: TrackingConfig, tmp_path: Path) -> None:
    images = []
    for without in ("", "theory.json"):
        (tmp_path / f"x{without}").mkdir()
        copy = copy_of(tracking, tmp_path / f"x{without}", without)
        images.append(checked(report_run(open_store(tracking), copy.run_id)).images()[0])
    assert "theory's prediction" in images[0]["alt"]
    assert "theory" not in images[1]["alt"]
    dashes = "stroke-dasharray"
    assert drawing(images[0]).count(dashes) > drawing(images[1]).count(dashes)


def thorough(value: str) -> Any:
    return pytest.param(value, marks=pytest.mark.thorough)


@pytest.mark.parametrize(
    "theory",
    ["no JSON", thorough("[]"), '{"layers": [1], "delta_rms": [1, 2]}', thorough('{"layers": "x"}'), "[" * 9999],
)
@pytest.mark.thorough
def test_unreadable_theory_is_noted_and_not_drawn(tracking: TrackingConfig, tmp_path: Path, theory: str) -> None:
    copy = copy_of(tracking, tmp_path, "theory.json")
    copy.text(theory, "theory.json")
    copy.send()
    page = checked(report_run(open_store(tracking), copy.run_id))
    assert "theory.json is there, but cannot be read" in page.text
    assert "theory" not in page.images()[0]["alt"]


@pytest.mark.thorough
def test_page_of_diverged_run_shows_where_it_diverged(tracking: TrackingConfig) -> None:
    runs = search(tracking, "tags.diverged = 'true'")
    assert runs
    for run in runs:
        page = checked(report_run(open_store(tracking), run.info.run_id))
        assert "Where it diverged" in page.text
        assert "of the replicates diverged" in page.text
        assert "max|W| = " in page.text
        assert re.search(r"\d+% not finite|not finite", page.text)
        assert len(page.images()) >= 2


def test_page_of_run_without_verdict_probes_or_training(tracking: TrackingConfig) -> None:
    where, name = f"tracking.uri={tracking.uri}", "name=bare"
    overrides = ["experiment=smoke", "probes=none", "epochs=0", "replicates=1", name, where, "tracking.experiment=bare"]
    assert run_command(*overrides).code == 0
    store = Store.open(TrackingConfig(tracking.uri, "bare"))
    (run,) = store.client.search_runs([store.experiment_id])
    assert (run.data.tags["verdict"], run.data.tags["decades"]) == ("–", "–")
    page = checked(report_run(open_store(tracking), run.info.run_id))
    assert page.images() == []
    assert "1 replicate ·" not in page.text  # dots are CSS
    assert "1 replicate" in page.text
    assert "final_accuracy_test" in page.text
    assert "0 epochs, 1 replicate from seed 0" in page.text, "the description replaces the verdict"


def test_page_of_run_of_a_number_of_steps(tracking: TrackingConfig) -> None:
    overrides = ["experiment=smoke", "probes=none", "steps=7", "replicates=1", "name=seven"]
    assert run_command(*overrides, f"tracking.uri={tracking.uri}", "tracking.experiment=steps").code == 0
    store = Store.open(TrackingConfig(tracking.uri, "steps"))
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.data.params["steps"] == "7"
    page = checked(report_run(open_store(tracking), run.info.run_id))
    assert "7 steps, 1 replicate from seed 0" in page.text
    assert "epoch" not in page.text.split("epochs: null")[0]


# The page of a sweep


def test_sweep_page_has_every_cell_and_maps(tracking: TrackingConfig) -> None:
    one = sweep_id(tracking, "two_keys")
    html = report_sweep(open_store(tracking), one)
    page = checked(html)
    runs = search(tracking, f"tags.sweep = '{one}'")
    rows = [re.sub("<.*?>", " ", row).split() for row in re.findall("<tr>(<td>.*?)</tr>", html)]
    for run in runs:
        (row,) = [r for r in rows if run.info.run_id[:8] in r]
        assert row[:2] == [run.data.params["activation"], run.data.params["architecture.depth"]]
        assert " ".join(row).count(run.data.tags["verdict"]) == 1
        for key in ("decades_lost_delta_rms_start", "final_accuracy_test"):
            assert any(is_rounded(run.data.metrics[key], text) for text in row)
        assert "0%" in row
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "The runs",
        "Over the swept keys",
        "All runs, layer by layer",
        "Run it again",
    ]
    assert "Heat maps over activation and depth" in page.images()[0]["alt"]
    assert f"{len(runs)} runs" in page.text
    assert "No replicate diverged" in page.text


def test_sweep_page_counts_diverged_runs(tracking: TrackingConfig) -> None:
    page = checked(report_sweep(open_store(tracking), sweep_id(tracking, "explode")))
    assert re.search(r"In [123] of 3 runs replicates diverged", page.text)
    assert "share of replicates that diverged" in page.images()[0]["alt"]
    assert "learning_rate" in page.text


def test_page_of_sweep_without_summary(tracking: TrackingConfig) -> None:
    """After an interruption: the parameters that differ between the runs count as swept."""
    store = open_store(tracking)
    for kind, rate in itertools.product(("sigmoid", "relu"), ("0.1", "0.01")):
        log = store.start(f"{kind} {rate}", {"sweep": "broken-off", "kind": "run", "verdict": "healthy"})
        log.params({"activation": kind, "optimizer.learning_rate": rate, "epochs": 1})
        log.end("FAILED" if rate == "0.1" else "FINISHED")
    html = report_sweep(store, "broken-off")
    page = checked(html)
    assert "Swept: activation, optimizer.learning_rate." in page.text
    assert page.text.count("(failed)") == 2
    assert "2 failed" in page.text
    assert page.images() == [], "no records"


def cells(**axes: list[str]) -> pd.DataFrame:
    rows = pd.DataFrame(list(itertools.product(*axes.values())), columns=list(axes))
    return rows.assign(decades_per_layer=np.linspace(-1, 1, len(rows)), accuracy=0.5, diverged=np.arange(len(rows)) % 2)


SWEPT = {"a": ["1", "2", "10"], "b": ["x", "y"], "c": ["u", "v"], "d": ["p", "q", "r", "s"]}


@pytest.mark.parametrize(("count", "figures", "panels"), [(1, 1, 3), (2, 1, 3), (3, 3, 2), (4, 3, 4)])
def test_swept_figures_of_any_number_of_keys(count: int, figures: int, panels: int) -> None:
    """One key: a panel per quantity. Two: a map per quantity. More: a figure per quantity, a map per other value."""
    chosen = dict(list(SWEPT.items())[:count])
    pictures = swept_figures(cells(**chosen), list(chosen))
    assert len(pictures) == figures
    for picture in pictures:
        drawn = [a for a in picture.figure.axes if a.get_xlabel() and a.axison]
        assert len(drawn) == panels
    if count == 4:
        titles = {a.get_title() for a in pictures[0].figure.axes if a.get_title()}
        assert titles == {f"b = {b}, c = {c}" for b in "xy" for c in "uv"}, "the keys with most values are the axes"


def test_map_shows_each_cell_in_its_row_and_column() -> None:
    frame = pd.DataFrame({"depth": ["10", "2", "2"], "kind": ["x", "x", "y"], "score": [0.25, 0.5, np.nan]})
    quantity = Quantity("score", "score", ".2f", "viridis")
    (picture,) = swept_figures(frame, ["depth", "kind"], [quantity])
    (axes,) = [a for a in picture.figure.axes if a.get_title() == "score"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["2", "10"], "numbers by size"
    texts = {tuple(t.get_position()): t.get_text() for t in axes.texts}
    assert texts == {(0, 0): "0.50", (1, 0): "–", (0, 1): "0.25", (1, 1): "–"}


# Parts of the page


def test_records_survive_the_table() -> None:
    again = "experiment=smoke", "probes=standard", "epochs=1", "schedule=each_epoch", "replicates=2"
    made = sorted(train(config(*again)), key=lambda r: r.step)
    back = records_of(tidy(made), {r.probe for r in made if r.geometric})
    key = [(r.step, r.probe) for r in back]
    assert sorted(key) == sorted((r.step, r.probe) for r in made)
    for record in made:
        twin = back[key.index((record.step, record.probe))]
        assert twin.layers == record.layers
        assert twin.geometric == record.geometric
        np.testing.assert_array_equal(twin.values, record.values)


def test_exponent_figure_counts_numbers_in_their_rows() -> None:
    """Worked example: two zeros, one subnormal, a 2^3, a 2^4, an infinity and two NaNs."""
    bins = (ZERO, SUBNORMAL, 3, 4, INFINITE, NAN)
    counts = np.array([[[2.0, 1, 1, 1, 1, 2]]])
    table = tidy([Record(0, "delta_exponents", (1,), counts, False, bins, sparse=True)])
    picture = exponent_figure(table, "delta_exponents", "δ")
    assert picture is not None
    axes = picture.figure.axes[0]
    drawn: Any = np.ma.filled(np.ma.asarray(axes.collections[0].get_array()), np.nan).ravel()
    np.testing.assert_allclose(drawn, np.array([2, 1, np.nan, 1, 1, np.nan, 1, 2]) / 8)
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "zero", "subnormal", "$2^{3}$", "$2^{4}$", "infinite", "NaN",
    ]  # fmt: skip
    assert "up to 25.00% of the numbers are NaN (layer 1)" in picture.caption


@pytest.mark.parametrize(("low", "high"), [(-320.0, 308.0), (-40.2, 0.3), (-0.31, 0.4), (0.0, 1.0), (2.0001, 2.0002)])
def test_log_ticks_lie_on_the_axis_with_correct_labels(low: float, high: float) -> None:
    places = log_ticks(low, high)
    labels = [log_label(place, decimal=high - low < 2.5) for place in places]
    assert 1 <= len(places) <= 9
    assert all(low <= p <= high for p in places)
    for place, label in zip(places, labels, strict=True):
        read = re.fullmatch(r"(?:([\d.]+)(?:\\cdot )?)?(?:10\^{(-?\d+)})?", label.strip("$"))
        assert read is not None, label
        assert np.log10(float(read[1] or 1)) + int(read[2] or 0) == pytest.approx(place, abs=1e-3)


def test_limits_keep_means_visible_beside_wide_bands() -> None:
    """Intervals of two replicates are 12.7 standard errors wide, which may be a hundred decades."""
    mean = np.array([0.0, 1.0, 2.0])
    assert limits([Curve(np.arange(3), mean, mean - 100, mean + 100)]) == pytest.approx((-1.24, 3.24))
    assert limits([Curve(np.arange(3), mean * np.nan, mean, mean)]) is None


def test_layer_ticks_start_at_the_first_layer() -> None:
    assert layer_ticks([1, 2, 3]) == [1, 2, 3]
    assert layer_ticks(range(1, 22)) == [1, 5, 9, 13, 17, 21]
    assert layer_ticks(range(1, 62)) == [1, 11, 21, 31, 41, 51, 61]


def test_plot_label_escapes_mathematics_and_shortens() -> None:
    assert plot_label("a$b$\n c") == "a\\$b\\$ c"
    assert len(plot_label("x" * 100)) == 28


# Untrusted content


def test_markup_from_the_store_is_escaped(tracking: TrackingConfig, tmp_path: Path) -> None:
    copy = copy_of(tracking, tmp_path, "config.yaml")
    client = open_store(tracking).client
    copy.text(f"activation: {json.dumps(EVIL)}\nprobes: [1]\n", "config.yaml")
    copy.text(json.dumps([finding(EVIL)]), "divergence.json")
    copy.text(json.dumps({"python": EVIL, EVIL: EVIL}), "provenance.json")
    tags = (
        "verdict",
        "verdict_paragraph",
        "mlflow.runName",
        "mlflow.note.content",
        "seed",
        "git.commit",
        "package.numpy",
    )
    copy.tags(dict.fromkeys(tags, EVIL) | {"sweep": "evil", f"package.{'x' * 9}": EVIL})
    copy.send()
    for html in (report_run(open_store(tracking), copy.run_id), report_sweep(open_store(tracking), "evil")):
        page = checked(html)
        assert page.text.count("<script>alert(1)</script>") >= 3
        assert "<script" not in html
        assert "<img src=x" not in html
    client.delete_run(copy.run_id)


def finding(text: str) -> dict[str, Any]:
    keys = "replicate", "step", "layer", "quantity", "operation", "count"
    return dict.fromkeys(keys, text) | {"operands": {text: "inf"}}


def test_hostile_swept_values_are_escaped_in_page_and_figures(tracking: TrackingConfig, tmp_path: Path) -> None:
    """Axis labels and legends included: matplotlib neither interprets nor rejects them."""
    ids = []
    for i, value in enumerate((EVIL, "$", "_hidden", "x" * 300, "\u4e2d\u6587")):
        (tmp_path / str(i)).mkdir()
        copy = copy_of(tracking, tmp_path / str(i))
        copy.tags({"sweep": "evil-values"})
        copy.params({"data.source.path": value, EVIL.replace("<", "")[:5]: "x"})
        copy.send()
        ids.append(copy.run_id)
    page = checked(report_sweep(open_store(tracking), "evil-values"))
    assert len(page.images()) == 2
    assert EVIL in page.text


def test_page_hides_the_address_of_the_store(tracking: TrackingConfig, html: str) -> None:
    """The address of a database may hold a password, and pages are shared."""
    assert tracking.uri is not None
    run = full_run(tracking)
    assert tracking.uri in run.data.tags["overrides"]
    sweep_page = report_sweep(open_store(tracking), sweep_id(tracking, "explode"))
    for page, other in ((html, "experiment="), (sweep_page, "data.subset=200")):
        assert "mlflow.db" not in page
        assert other in page, "the other overrides are there"


# Bad input


def refused(tracking: TrackingConfig, run: str | None, sweep: str | None, to: Path | None) -> str:
    with pytest.raises(ConfigError) as refusal:
        report(run, sweep, tracking, to)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("run", "sweep", "message"),
    [
        (None, None, "exactly one of --run"),
        ("a", "b", "exactly one of --run"),
        ("0" * 32, None, "no such run"),
        ("", None, "no such run"),
        (None, "nothing-12345678", "no such sweep"),
        (None, "", "no such sweep"),
        (None, "it's", "no such sweep"),
        (None, "' or tags.kind = 'run", "no such sweep"),
        (None, "%", "no such sweep"),
    ],
)
def test_missing_run_or_sweep_is_reported_in_one_line(
    tracking: TrackingConfig, tmp_path: Path, run: str | None, sweep: str | None, message: str
) -> None:
    assert message in refused(tracking, run, sweep, tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


def test_similar_sweep_id_is_suggested(tracking: TrackingConfig, tmp_path: Path) -> None:
    right = sweep_id(tracking, "two_keys")
    assert f"did you mean {right}?" in refused(tracking, None, right[:-1], tmp_path)


def test_report_of_summary_run_names_its_sweep(tracking: TrackingConfig, tmp_path: Path) -> None:
    one = sweep_id(tracking, "two_keys")
    (summary,) = search(tracking, f"tags.sweep_summary = '{one}'")
    assert f"--sweep {one}" in refused(tracking, summary.info.run_id, None, tmp_path)


def test_missing_store_is_reported_and_not_created(tmp_path: Path) -> None:
    nowhere = TrackingConfig(f"sqlite:///{tmp_path / 'no.db'}", "gradvitals")
    assert "no store there yet" in refused(nowhere, "0" * 32, None, tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


def test_run_without_records_is_rejected(tracking: TrackingConfig, tmp_path: Path) -> None:
    empty = open_store(tracking).start("empty", {"kind": "run"})
    assert "has no artifact records.parquet" in refused(tracking, empty.run_id, None, tmp_path / "x.html")


@pytest.mark.parametrize("spoilt", ["bytes", "columns", "text", "sparse"])
def test_unreadable_records_are_rejected(tracking: TrackingConfig, tmp_path: Path, spoilt: str) -> None:
    copy = copy_of(tracking, tmp_path)
    table = pd.read_parquet(tmp_path / "records.parquet")
    broken = {
        "columns": table.drop(columns="layer"),
        "text": table.assign(value="much"),
        "sparse": table.assign(step=np.arange(len(table)), layer=np.arange(len(table)) + 1, bin=np.nan, probe="x"),
    }
    if spoilt == "bytes":
        (tmp_path / "records.parquet").write_bytes(b"PAR1 no parquet")
    else:
        broken[spoilt].to_parquet(tmp_path / "records.parquet")
    copy.file(tmp_path / "records.parquet")
    copy.send()
    assert "records.parquet" in refused(tracking, copy.run_id, None, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_missing_folder_is_reported_and_not_created(tracking: TrackingConfig, tmp_path: Path) -> None:
    run = full_run(tracking).info.run_id
    assert "there is no folder" in refused(tracking, run, None, tmp_path / "missing" / "x.html")
    assert list(tmp_path.iterdir()) == []


# The file


@pytest.mark.thorough
def test_report_is_written_logged_and_printed(
    tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = sweep_id(tracking, "two_keys")
    run = search(tracking, f"tags.sweep = '{one}'")[0].info.run_id
    (summary,) = search(tracking, f"tags.sweep_summary = '{one}'")
    for chosen, owner, name in (
        ((run[:8], None), run, f"report-{run}.html"),
        ((None, one), summary.info.run_id, f"report-{one}.html"),
    ):
        option = ["--run", chosen[0]] if chosen[0] else ["--sweep", str(chosen[1])]
        invocation = invoke("report", *option, "--uri", str(tracking.uri))
        assert (invocation.code, invocation.out) == (0, f"{tmp_path / name}\n")
        assert "report.html" in artifacts(tracking, owner)
        logged = open_store(tracking).client.download_artifacts(owner, "report.html", str(tmp_path))
        assert Path(logged).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")
    assert report(run, None, tracking, tmp_path / "chosen.html") == tmp_path / "chosen.html"
    assert {p.name for p in tmp_path.iterdir()} == {
        "report.html", "chosen.html", f"report-{run}.html", f"report-{one}.html",
    }  # fmt: skip


def test_sweep_id_with_slashes_stays_in_the_folder(
    tracking: TrackingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    log = open_store(tracking).start("x", {"sweep": "../../evil-1", "kind": "run"})
    log.params({"epochs": 1})
    assert report(None, "../../evil-1", tracking, None).parent == tmp_path / "here"
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["report-.._.._evil-1.html"]


def test_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.html"
    write_output(b"old", target)

    def fails(self: Path, content: bytes) -> int:
        with self.open("wb") as half:
            half.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_output(b"a new and longer page", target, force=True)
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
    write_output(b"new", target, force=True)
    assert target.read_bytes() == b"new"


def test_page_is_readable_for_other_users(tmp_path: Path) -> None:
    """Temporary files of the standard library are readable for their owner only."""
    before = os.umask(0o022)
    try:
        write_output(b"x", tmp_path / "x.html")
    finally:
        os.umask(before)
    assert (tmp_path / "x.html").stat().st_mode & 0o777 == 0o644


# In a browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def shot(path: Path, folder: Path) -> Any:
    """Return a screenshot [rows, columns, RGB]. A second attempt follows if a loaded machine is too slow."""
    picture = folder / f"{path.stem}.png"
    for attempt in range(2):
        command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder / f'profile{attempt}'}", "--window-size=1200,6500"]
        command += [f"--screenshot={picture}", path.as_uri()]
        subprocess.run(command, capture_output=True, timeout=150, check=False)
        if picture.exists():
            break
    return matplotlib.image.imread(picture)[..., :3]


@pytest.mark.thorough
def test_browser_draws_all_figures(html: str, tmp_path: Path) -> None:
    """Compare screenshots with and without the images: the differences are the figures, and none is blank."""
    require(BROWSER is not None, "needs Chromium")
    count = len(checked(html).images())
    (tmp_path / "with.html").write_text(html, encoding="utf-8")
    sources = re.findall(r'base64,([^"]*)"', html)
    assert len(sources) == count
    seen = shot(tmp_path / "with.html", tmp_path)
    for data in sources:
        html = html.replace(data, emptied(data))
    (tmp_path / "without.html").write_text(html, encoding="utf-8")
    unseen = shot(tmp_path / "without.html", tmp_path)
    assert seen.shape == unseen.shape
    different = (np.abs(seen - unseen).max(axis=-1) > 0.05).mean(axis=1) > 0.002
    edges = np.flatnonzero(np.diff(np.concatenate([[False], smooth(different), [False]]).astype(int)))
    bands = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 150]
    assert len(bands) == count, bands
    for a, b in bands:
        colours = np.unique((seen[a:b].reshape(-1, 3) * 255).round().astype(int), axis=0)
        assert len(colours) > 50, "a figure of lines, letters and colours"


def emptied(data: str) -> str:
    """Return an empty SVG of the same size."""
    head = re.search(r"<svg [^>]*>", base64.b64decode(data).decode())
    assert head is not None
    return base64.b64encode(f"{head[0]}</svg>".encode()).decode()


def smooth(rows: Any, gap: int = 60) -> Any:
    """Close gaps of at most ``gap`` rows between rows that differ."""
    where = np.flatnonzero(rows)
    closed = np.zeros(len(rows), dtype=bool)
    for a, b in itertools.pairwise(where):
        if b - a <= gap:
            closed[a : b + 1] = True
    return closed
