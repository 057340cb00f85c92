"""A store that an older version wrote is read: its runs are listed, reported, compared, exported.

``tests/data/old_store.zip`` is the store of ``make sweep EXP=smoke ARGS="name=old epochs=1"`` at commit 808e424, before
the modules moved to their wings; the place of its artifacts is written as ``file:///old-store``.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from support.commands import invoke
from support.stores import opened, uri

ARCHIVE = Path(__file__).resolve().parents[1] / "data" / "old_store.zip"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with the store."""
    zipfile.ZipFile(ARCHIVE).extractall(tmp_path)
    return tmp_path


def test_runs_of_an_old_store_are_listed(old: Path) -> None:
    runs = opened(old).search()
    assert [r.data.tags["kind"] for r in runs].count("sweep") == 1
    verdicts = {r.info.run_name: r.data.tags["verdict"] for r in runs if r.data.tags["kind"] == "run"}
    assert sorted(verdicts.values()) == ["healthy", "vanishing"]


@pytest.mark.thorough
def test_runs_of_an_old_store_are_reported_compared_and_exported(old: Path, tmp_path: Path) -> None:
    store = ("--uri", uri(old))
    first, second = (r.info.run_id for r in opened(old).search("tags.kind = 'run'"))
    (summary,) = opened(old).search("tags.kind = 'sweep'")
    sweep_id = summary.data.tags["sweep_summary"]
    for arguments in (("--run", first), ("--sweep", sweep_id)):
        page = tmp_path / "page.html"
        assert invoke("report", *arguments, "--to", str(page), *store).code == 0
        assert "vanishing" in page.read_text()
    compared = invoke("compare", first, second, *store)
    assert compared.code == 0
    assert "decades of δ lost per layer" in compared.out
    exported = invoke("export", "--sweep", sweep_id, "--to", str(tmp_path / "folder"), *store)
    assert exported.code == 0, exported.err
    assert invoke("verify", "--from", str(tmp_path / "folder")).code == 0
    assert invoke("diff", first, first, *store).code == 0


def test_reproducing_a_run_of_an_old_store_names_its_commit(old: Path) -> None:
    run = opened(old).search("tags.kind = 'run'")[0]
    done = invoke("reproduce", run.info.run_id, "--as-it-is", "--uri", uri(old))
    assert done.code == 2
    assert "git worktree add" in done.out
    assert run.data.tags["git.commit"] in done.out
