"""Outputs that a user names: never in the place of a file that was not written here, and whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from support.commands import invoke
from support.stores import opened, uri

from experiments.catalogue import CATALOGUE, check_catalogue
from experiments.experiment import names
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.reports.outputs import check_output, parse_output, png, write_output

pytestmark = pytest.mark.xdist_group("outputs")

SMALL = ("experiment=smoke", "epochs=1", "data.subset=50", "architecture.depth=2", "tracking.figures=false")
PAGES = (
    "docs/theory.md",
    "docs/verdicts.md",
    "experiments/tanh_phases/slopes.png",
    "experiments/lost_updates/figure.png",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the folder of a store, and its two runs."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 5):
        assert invoke("run", *SMALL, f"seed={seed}", f"tracking.uri={uri(folder)}").code == 0
    return folder, [r.info.run_id for r in opened(folder).search()]


Place = Callable[[Path], object]
NEVER: dict[str, tuple[Place, str]] = {
    "pipe": (os.mkfifo, "is a pipe"),
    "link": (lambda p: p.symlink_to(p.with_name("elsewhere")), "is a link"),
    "device": (lambda p: p.symlink_to("/dev/null"), "is a link"),
    "socket": (lambda p: os.mknod(p, 0o140644), "is a special file"),
}
FORCED: dict[str, Place] = {
    "notes": lambda p: p.write_text("my notes"),
    "page": lambda p: p.write_text("<!DOCTYPE html>\n<html><title>mine</title></html>"),
    "picture": lambda p: Figure().savefig(p, format="png"),
    "empty": lambda p: p.touch(),
}


def commands(runs: tuple[Path, list[str]]) -> dict[str, tuple[str, ...]]:
    folder, (first, second) = runs
    return {
        "out.html": ("report", "--run", first, "--uri", uri(folder)),
        "out.png": ("diff", first, second, "--uri", uri(folder)),
    }


@pytest.mark.parametrize("name", ["out.html", "out.png"])
@pytest.mark.thorough
def test_file_of_another_origin_is_replaced_only_when_forced(
    runs: tuple[Path, list[str]], name: str, tmp_path: Path
) -> None:
    command, code = commands(runs)[name], 1 if name == "out.png" else 0
    path = tmp_path / name
    for kind, place in FORCED.items():
        path.unlink(missing_ok=True)
        place(path)
        before = path.read_bytes()
        shown = invoke(*command, "--to", str(path))
        assert shown.code == 2, kind
        assert shown.err == f"error: TO={path}: is a file that gradvitals did not write; --force replaces it\n"
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
    assert invoke(*command, "--to", str(path), "--force").code == code
    written = path.read_bytes()
    assert written != before
    assert invoke(*command, "--to", str(path)).code == code  # its own file is replaced
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["out.html", "out.png"])
def test_links_pipes_and_devices_are_never_replaced(runs: tuple[Path, list[str]], name: str, tmp_path: Path) -> None:
    command = commands(runs)[name]
    path = tmp_path / name
    for place, problem in NEVER.values():
        path.unlink(missing_ok=True)
        place(path)
        mode = path.lstat().st_mode
        for force in ((), ("--force",)):
            shown = invoke(*command, "--to", str(path), *force)
            assert shown.code == 2
            assert problem in shown.err
            assert len(shown.err.splitlines()) == 1
        assert path.lstat().st_mode == mode
        assert list(tmp_path.iterdir()) == [path]


def test_device_is_refused(runs: tuple[Path, list[str]]) -> None:
    """Root could replace it by a plain file."""
    shown = invoke(*commands(runs)["out.html"], "--to", "/dev/null", "--force")
    assert shown.code == 2
    assert "TO=/dev/null: is a device" in shown.err
    assert not Path("/dev/null").is_file()


def test_default_page_never_replaces_a_file_of_another_origin(
    runs: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / f"report-{runs[1][0]}.html"
    page.write_text("mine")
    assert invoke(*commands(runs)["out.html"]).code == 2
    assert page.read_text() == "mine"


@pytest.mark.parametrize("to", ["x" * 300, "~nobody-here/x.html", "there/is/no/folder.html"])
def test_impossible_path_is_refused_in_one_line(runs: tuple[Path, list[str]], to: str, tmp_path: Path) -> None:
    shown = invoke(*commands(runs)["out.html"], "--to", to if to[0] == "~" else str(tmp_path / to))
    assert shown.code == 2
    assert len(shown.err.splitlines()) == 1
    assert "TO=" in shown.err


@pytest.mark.parametrize("path", PAGES)
def test_published_pages_and_figures_are_known_as_our_own(path: str) -> None:
    check_output(PROJECT / path)


def test_catalogue_is_checked_before_its_experiments_run(tmp_path: Path) -> None:
    check_catalogue(names(), CATALOGUE)
    (tmp_path / f"{names()[-1]}.png").write_text("mine")
    with pytest.raises(ConfigError, match="did not write"):
        check_catalogue(names(), tmp_path)


def test_written_figure_can_be_written_again(tmp_path: Path) -> None:
    for _ in range(2):
        write_output(png(Figure(), 50), parse_output(tmp_path / "figure.png"))
    with pytest.raises(ConfigError, match="is a folder"):
        write_output(png(Figure(), 50), tmp_path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]
