"""A logged run, trained again: identical, or the first difference; and a logged config is not to be trusted."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from pipeline.__main__ import main
from pipeline.records import Record, tidy
from pipeline.reproduce import first_difference, logged_config
from pipeline.single import single
from pipeline.tracking import Store, TrackingConfig

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """(uri, run id, artifact folder) of a small finished run."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    overrides = ["experiment=smoke", "schedule=every", f"tracking.uri={uri}", "activation=tanh"]
    assert single(overrides, None, True, Console(file=io.StringIO())) == 0
    store = Store.open(TrackingConfig(uri, "gradvitals"))
    (run,) = store.client.search_runs([store.experiment_id])
    return uri, run.info.run_id, Path(run.info.artifact_uri.removeprefix("file://"))


def reproduce(logged: tuple[str, str, Path], *arguments: str) -> int:
    return main(["reproduce", "--uri", logged[0], logged[1], *arguments])


def test_identical(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(logged) == 0
    out = capsys.readouterr().out
    assert "identical: all" in out
    assert "records and the chain at " in out


def test_the_beginning_of_the_id_is_enough(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--uri", logged[0], logged[1][:8]]) == 0
    assert "identical" in capsys.readouterr().out


def test_one_bit_of_the_config(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The next float64 after 0.1: records of step 0 agree but for the update, the first update differs."""
    assert (
        reproduce(logged, f"optimizer.learning_rate={np.nextafter(0.1, 1)!r}".replace("np.float64(", "").rstrip(")"))
        == 1
    )
    out = capsys.readouterr().out
    assert "differs: config (config.sha256) was" in out
    assert "different: step 1, layer 1, W, replicate 0: norm " in out
    assert "; all alike at step 0" in out
    assert "first of the records: step 1, layer " in out


def test_another_seed_departs_at_once(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(logged, "seed=7") == 1
    out = capsys.readouterr().out
    assert "different: step 0, the rows of the batch, replicate 0" in out
    assert "first of the records: step 0, layer 1," in out


def test_changed_code_departs(logged: tuple[str, str, Path], tmp_path: Path) -> None:
    """A copy of the project with σ' of tanh off by one part in 10¹⁵."""
    for name in ("engine", "pipeline", "conf"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "engine" / "activations.py"
    right = "return np.subtract(1, s, out=s)\n\n\n@dataclass(frozen=True)\nclass Relu"
    text = source.read_text(encoding="utf-8")
    assert right in text
    source.write_text(text.replace(right, right.replace("subtract(1,", "subtract(1 + 1e-15,")), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "reproduce", "--uri", logged[0], logged[1]]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    # the top layer's error is softmax's and right; the first to go wrong is the one below, as a step computes
    assert "different: step 0, layer 3, ∂C/∂W, replicate 0" in done.stdout, done.stdout
    assert "code that training runs is the same" not in done.stdout


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("os.system", "package 'os' is not allowed"),
        ("subprocess.Popen", "package 'subprocess' is not allowed"),
        ("engine.arrays.np.save", "cannot import 'engine.arrays.np'"),
        ("pipeline.provenance.subprocess.run", "cannot import 'pipeline.provenance.subprocess'"),
        ("pipeline.provenance.Path", "defined in pathlib"),
        ("pipeline.ui.serve", "unknown key|is missing"),
        ("pipeline.reproduce.Difference", "is missing|must be"),
    ],
)
def test_a_logged_config_calls_only_what_is_allowed(
    logged: tuple[str, str, Path], target: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = logged[2] / "config.yaml"
    original = config.read_text()
    node = yaml.safe_load(original)
    node["activation"] = {"_target_": target}
    try:
        config.write_text(yaml.safe_dump(node))
        assert reproduce(logged) == 2
    finally:
        config.write_text(original)
    error = capsys.readouterr().err
    assert error.startswith("error: activation")
    assert any(part in error for part in says.split("|")), error


def test_yaml_tags_construct_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: !!python/object/apply:os.system ['touch /tmp/never']\n")
    with pytest.raises(Exception, match="not readable YAML"):
        logged_config(path, [])


def table(values: list[float], probe: str = "delta_rms") -> pd.DataFrame:
    return tidy([Record(step, probe, (1,), np.array([[value]]), True) for step, value in enumerate(values)])


def test_first_difference() -> None:
    """NaN equals NaN, −0 is not 0, the last bit counts, and a shorter table is a difference."""
    assert first_difference(table([1.0, np.nan, np.inf]), table([1.0, np.nan, np.inf])) is None
    found = first_difference(table([1.0, 2.0, 3.0]), table([1.0, np.nextafter(2.0, 3.0), 4.0]))
    assert found is not None
    assert (found.step, found.layer, found.probe, found.logged) == (1, 1, "delta_rms", 2.0)
    zero = first_difference(table([0.0]), table([-0.0]))
    assert zero is not None
    shorter = first_difference(table([1.0, 2.0]), table([1.0]))
    assert shorter is not None
    assert (shorter.step, shorter.again) == (1, None)
    assert "no such record" in str(shorter)
    longer = first_difference(table([1.0]), table([1.0, 2.0]))
    assert longer is not None
    assert (longer.step, longer.logged) == (1, None)
    assert first_difference(table([1.0]), table([1.0], probe="coherence")) is not None
