"""A cell's identity: what changes it and what does not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.compose import compose_run
from pipeline.reproducibility import fingerprint


def of(*overrides: str, data: str = "d") -> str:
    return fingerprint.fingerprint(compose_run(overrides), data)


def test_cosmetic_keys_do_not_change_it() -> None:
    one = of()
    for cosmetic in ("tracking.experiment=other", "name=other", "checkpoints.seconds=1"):
        assert of(cosmetic) == one


def test_science_and_data_change_it() -> None:
    seen = {of(), of("seed=1"), of("optimizer.learning_rate=0.7"), of("schedule=every"), of(data="e")}
    assert len(seen) == 5


def test_training_reaches_engine_and_data_but_nothing_that_only_shows() -> None:
    reached = set(fingerprint.modules([fingerprint.ROOT]))
    assert {"engine.network", "engine.probes.gradients", "pipeline.training.loop", "pipeline.data.batching"} <= reached
    cosmetic = {"tracking", "progress", "report", "figures", "execution", "sweep", "verdict", "checkpoint"}
    assert not {f"pipeline.{name}" for name in cosmetic} & reached


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of a user's own: a probe that uses a helper, and a module that it does not use."""
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


def digest(node: object) -> str:
    fingerprint._digest_of.cache_clear()
    return fingerprint.code_digest({"probes": node})


def test_a_changed_line_of_a_users_probe_or_what_it_uses_changes_it(package: Path) -> None:
    node = {"own": {"_target_": "ownparts.probe.own"}}
    assert set(fingerprint.modules(["ownparts.probe"])) == {
        "ownparts", "ownparts.probe", "ownparts.deep", "ownparts.deep.helper",
    }  # fmt: skip
    seen = [digest(node)]
    (package / "unused.py").write_text("x = 2\n")
    assert digest(node) == seen[0]
    (package / "deep" / "helper.py").write_text("FACTOR = 3\n")
    seen.append(digest(node))
    with (package / "probe.py").open("a") as file:
        file.write("\n# a line\n")
    seen.append(digest(node))
    assert len(set(seen)) == 3
    assert digest({}) not in seen


def test_a_module_beside_a_users_module_counts_and_an_installed_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "myprobes.py").write_text("import json\nimport pandas\nfrom myhelpers import FACTOR\n")
    (tmp_path / "myhelpers.py").write_text("FACTOR = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    fingerprint._installed.cache_clear()
    assert set(fingerprint.modules(["myprobes"])) == {"myprobes", "myhelpers"}
    node = {"own": {"_target_": "myprobes.own"}}
    before = digest(node)
    (tmp_path / "myhelpers.py").write_text("FACTOR = 3\n")
    assert digest(node) != before
