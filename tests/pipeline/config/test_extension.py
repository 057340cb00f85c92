"""A user's own parts, in a package and a config folder outside this repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.stores import empty

from pipeline.cli import main

PROJECT = Path(__file__).resolve().parents[3]

PACKAGE = '''
from dataclasses import dataclass

import numpy as np

from engine.activations import Elementwise
from engine.costs import Cost
from engine.initializers import Initializer
from engine.probes import layer_probe
from pipeline.data.table import Source, Table


@dataclass(frozen=True)
class Sine(Elementwise):
    """σ(z) = sin(ωz)."""

    omega: float

    def value(self, z, out=None):
        return np.sin(self.omega * z, out=out)

    def derivative(self, z, a, out=None):
        s = np.cos(self.omega * z, out=out)
        s *= self.omega
        return s


@dataclass(frozen=True)
class Quartic(Cost):
    """C = Σ (a − y)⁴."""

    def value(self, a, y):
        return np.add.reduce((a - y) ** 4, axis=-2)

    def gradient(self, a, y):
        return 4 * (a - y) ** 3


@dataclass(frozen=True)
class Plus(Initializer):
    """Random signs of one size."""

    size: float

    def variance(self, fan_in, fan_out):
        return self.size**2

    def sample(self, rng, parameter):
        return self.size * rng.choice([-1.0, 1.0], parameter.shape)


@layer_probe(geometric=True)
def largest_delta(layer):
    """max |δ|."""
    return np.abs(layer.delta).max(axis=-1).max(axis=-1)


def smallest_delta(layer, scale: float):
    """A probe without traits, with an option."""
    return scale * np.abs(layer.delta).min(axis=-1).min(axis=-1) if layer.number > 1 else None


@dataclass(frozen=True)
class Parity(Source):
    """Is the number of ones even?"""

    bits: int

    def load(self, rng):
        x = np.array([[float(c) for c in format(i, f"0{self.bits}b")] for i in range(2**self.bits)])
        return Table(x, x.sum(axis=1).astype(int) % 2, classes=2)
'''

FILES = {
    "activation/sine.yaml": "_target_: mine.Sine\nomega: 1.5\n",
    "cost/quartic.yaml": "_target_: mine.Quartic\n",
    "init/plus.yaml": "weights: {_target_: mine.Plus, size: 0.3}\nbiases: {_target_: mine.Plus, size: 0.1}\n",
    "probe/largest_delta.yaml": "_target_: mine.largest_delta\n_partial_: true\n",
    "probe/smallest_delta.yaml": "_target_: mine.smallest_delta\n_partial_: true\nscale: 2.0\n",
    "data/parity.yaml": (
        "source: {_target_: mine.Parity, bits: 8}\ntest_fraction: 0.25\nsubset: null\nstandardise: true\n"
    ),
}
CHOICES = [
    "activation=sine,tanh",
    "cost=quartic",
    "init=plus",
    "data=parity",
    "+probe@probes.largest=largest_delta",
    "+probe@probes.smallest=smallest_delta",
    "architecture.hidden=[6,6]",
    "epochs=1",
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PACKAGE, encoding="utf-8")
    for name, text in FILES.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def command(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{package}"}
    line = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(line, cwd=package, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", ["--config-dir", pytest.param("hydra.searchpath", marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_own_parts_run_in_a_sweep_and_reproduce(
    package: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = (
        ["--config-dir", str(package / "conf")]
        if how == "--config-dir"
        else [f"hydra.searchpath=[file://{package / 'conf'}]"]
    )
    uri = empty(f"sqlite:///{package / 'x.db'}")
    done = command(package, "sweep", *CHOICES, f"tracking.uri={uri}", *place)
    assert done.returncode == 0, done.stderr + done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("sine"))
    run_id = line.split()[-1]
    monkeypatch.syspath_prepend(str(package))
    assert main(["reproduce", run_id, "--uri", uri]) == 2
    assert "package 'mine' is not allowed" in capsys.readouterr().err
    assert "mine" not in sys.modules
    try:
        assert main(["reproduce", run_id, "--uri", uri, "--allow", "mine"]) == 0
    finally:
        sys.modules.pop("mine", None)
    assert "identical" in capsys.readouterr().out


def test_own_parts_pass_the_shipped_gradient_checks(package: Path) -> None:
    code = (
        "import numpy as np, mine\n"
        "from engine.gradient_check import check_activation, check_cost\n"
        "rng = np.random.default_rng(0)\n"
        "check_activation(mine.Sine(1.5), rng).require()\n"
        "check_cost(mine.Quartic(), rng.standard_normal((3, 5)), rng.standard_normal((3, 5)), rng).require()\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{package}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
