"""The fingerprint of a cell: which changes of config, data and code change it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.compose import compose_run
from pipeline.reproducibility import fingerprint


def fingerprint_of(*overrides: str, data: str = "d") -> str:
    return fingerprint.fingerprint(compose_run(overrides), data)


def test_fingerprint_ignores_cosmetic_keys() -> None:
    expected = fingerprint_of()
    for cosmetic in ("tracking.experiment=other", "name=other", "checkpoints.seconds=1"):
        assert fingerprint_of(cosmetic) == expected


def test_fingerprint_depends_on_science_and_data() -> None:
    fingerprints = {
        fingerprint_of(),
        fingerprint_of("seed=1"),
        fingerprint_of("optimizer.learning_rate=0.7"),
        fingerprint_of("schedule=every"),
        fingerprint_of(data="e"),
    }
    assert len(fingerprints) == 5


def test_modules_of_training_include_no_display_code() -> None:
    reached = set(fingerprint.modules([fingerprint.ROOT]))
    assert {"engine.network", "engine.probes.gradients", "pipeline.training.loop", "pipeline.data.batching"} <= reached
    cosmetic = {"tracking", "progress", "report", "figures", "execution", "sweep", "verdict", "checkpoint"}
    assert not {f"pipeline.{name}" for name in cosmetic} & reached


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's package: a probe that imports a helper, and an unused module."""
    folder = tmp_path / "ownparts"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "deep" / "__init__.py").write_text("")
    (folder / "deep" / "helper.py").write_text("FACTOR = 2\n")
    (folder / "probe.py").write_text("import numpy as np\nfrom .deep import helper\n\ndef own(layer):\n    return 1\n")
    (folder / "unused.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] == "ownparts"]:
        del sys.modules[name]


def digest(probes: object) -> str:
    fingerprint.source_files.cache_clear()
    fingerprint.digest_of_files.cache_clear()
    return fingerprint.code_digest({"probes": probes})


def test_code_digest_depends_on_users_probe_and_its_imports(package: Path) -> None:
    probes = {"own": {"_target_": "ownparts.probe.own"}}
    assert set(fingerprint.modules(["ownparts.probe"])) == {
        "ownparts", "ownparts.probe", "ownparts.deep", "ownparts.deep.helper",
    }  # fmt: skip
    digests = [digest(probes)]
    (package / "unused.py").write_text("x = 2\n")
    assert digest(probes) == digests[0]
    (package / "deep" / "helper.py").write_text("FACTOR = 3\n")
    digests.append(digest(probes))
    with (package / "probe.py").open("a") as file:
        file.write("\n# a line\n")
    digests.append(digest(probes))
    assert len(set(digests)) == 3
    assert digest({}) not in digests


def test_code_digest_includes_neighbouring_modules_but_not_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "myprobes.py").write_text("import json\nimport pandas\nfrom myhelpers import FACTOR\n")
    (tmp_path / "myhelpers.py").write_text("FACTOR = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    fingerprint.is_installed.cache_clear()
    assert set(fingerprint.modules(["myprobes"])) == {"myprobes", "myhelpers"}
    probes = {"own": {"_target_": "myprobes.own"}}
    before = digest(probes)
    (tmp_path / "myhelpers.py").write_text("FACTOR = 3\n")
    assert digest(probes) != before


def test_packages_of_every_folder_with_distributions_count_as_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: a folder that pip filled, such as the site-packages of the user or of the system."""
    own, libraries = tmp_path / "own", tmp_path / "libraries"
    (libraries / "somelibrary-1.0.dist-info").mkdir(parents=True)
    own.mkdir()
    (own / "myprobes.py").write_text("import somelibrary\n")
    (libraries / "somelibrary.py").write_text("")
    for folder in (own, libraries):
        monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    fingerprint.is_installed.cache_clear()
    fingerprint.library_folders.cache_clear()
    try:
        assert set(fingerprint.modules(["myprobes"])) == {"myprobes"}
    finally:
        fingerprint.library_folders.cache_clear()
