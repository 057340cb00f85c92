"""The comparison of two logged runs: first difference, size and growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import invoke

from pipeline.cli import main
from pipeline.reproducibility.diff import pair_replicates
from pipeline.reproducibility.difference_growth import SATURATED, DifferenceSeries, growth_rate, relative_difference
from pipeline.reproducibility.record_diff import common_records, first_record_difference
from pipeline.training.records import Record, tidy

pytestmark = pytest.mark.xdist_group("diff")

BASE = (
    "experiment=smoke", "activation=tanh", "schedule=every", "schedule@chain.schedule=every",
    "optimizer.learning_rate=0.1", "checkpoints.seconds=null",
)  # fmt: skip
ULP = float(np.nextafter(0.1, 1))
RUNS = {
    "plain": (),
    "again": ("name=other",),
    "ulp": (f"optimizer.learning_rate={ULP!r}",),
    "alone": ("seed=1", "replicates=1"),
    "other_seeds": ("seed=100",),
    "longer": ("epochs=2",),
    "deeper": ("architecture.depth=4",),
    "sparse": ("schedule@chain.schedule=first_and_last", "schedule=first_and_last"),
}


Differ = Callable[..., tuple[int, str]]


class Logged:
    """Runs in a store, trained on first use."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.folder = folder / "mlflow-artifacts" / "gradvitals"
        self._ids: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._ids:
            overrides = [*BASE, *RUNS[name], f"tracking.uri={self.uri}"]
            before = {p.name for p in self.folder.glob("*")}
            assert invoke("run", *overrides).code == 0
            (self._ids[name],) = {p.name for p in self.folder.glob("*")} - before
        return self._ids[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    return Logged(tmp_path_factory.mktemp("store"))


@pytest.fixture
def differ(runs: Logged, capsys: pytest.CaptureFixture[str]) -> Differ:
    def call(a: str, b: str, *more: str) -> tuple[int, str]:
        code = main(["diff", runs[a], runs[b], "--uri", runs.uri, *more])
        return code, capsys.readouterr().out

    return call


def test_runs_of_equal_configs_are_identical(differ: Differ) -> None:
    code, out = differ("plain", "again")
    assert code == 0
    assert "config: the configs are the same" in out
    assert "replicates are paired by seed: seeds 0 ... 1\n" in out
    assert "\nidentical: " in out


def test_learning_rate_changed_by_one_ulp_differs_from_first_update(differ: Differ, tmp_path: Path) -> None:
    figure = tmp_path / "growth.png"
    code, out = differ("plain", "ulp", "--to", str(figure))
    assert code == 1
    assert f"config: optimizer.learning_rate: 0.1 → {ULP!r}" in out
    # θ and gradient of step 0 are equal; its update is not, so θ of step 1 differs
    assert "first difference: step 1, layer 1, W, replicate 0: norm " in out
    assert "; all equal at step 0" in out
    assert "relative difference of the norms" in out
    assert {line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")} == {
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
    }
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_stack_member_is_identical_to_run_alone(differ: Differ) -> None:
    code, out = differ("plain", "alone")
    assert code == 0, out
    assert "config: replicates: 2 → 1" in out
    assert "replicates are paired by seed: seed 1; 1 with other seeds not compared" in out
    code, out = differ("alone", "ulp")
    assert code == 1
    assert "step 1, layer 1, W, replicate 0" in out


def test_other_seeds_differ_at_first_step(differ: Differ) -> None:
    code, out = differ("plain", "other_seeds")
    assert code == 1
    assert "no common seed: replicates are paired by number" in out
    assert "first difference: step 0, the rows of the batch, replicate 0" in out
    assert "has too few points" in out  # saturated from the first step


def test_longer_run_is_identical_at_common_steps(differ: Differ) -> None:
    code, out = differ("plain", "longer")
    assert code == 1
    assert "config: epochs: 1 → 2" in out
    assert "first difference" not in out
    assert "different: A ends at step " in out


def test_networks_of_different_depths_are_reported(differ: Differ) -> None:
    code, out = differ("plain", "deeper")
    assert code == 1
    assert "different: the networks have different depths" in out


def test_common_steps_are_compared(differ: Differ) -> None:
    code, out = differ("plain", "sparse")
    assert code == 0
    assert "and 2 common steps of the chain" in out


@pytest.mark.thorough
def test_exported_folder_is_compared_with_stored_run(
    runs: Logged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    assert main(["export", "--uri", runs.uri, "--run", runs["plain"], "--to", str(folder)]) == 0
    assert main(["diff", str(folder), runs["again"], "--uri", runs.uri]) == 0
    assert main(["diff", str(folder), str(folder)]) == 0
    assert main(["diff", runs["ulp"], str(folder), "--uri", runs.uri]) == 1
    capsys.readouterr()


def test_tampered_chain_is_reported(runs: Logged, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs.folder / runs["again"] / "artifacts" / "chain.parquet"
    original = path.read_bytes()
    chain = pd.read_parquet(path)
    chain["digest"] = ["0" * len(d) if i == 40 else d for i, d in enumerate(chain["digest"])]
    try:
        chain.to_parquet(path, index=False)
        assert main(["diff", runs["plain"], runs["again"], "--uri", runs.uri]) == 1
    finally:
        path.write_bytes(original)
    assert "tampered: the chain of B was changed after it was logged: the link of step " in capsys.readouterr().out


@pytest.mark.parametrize("to", ["growth.txt", "nowhere/growth.png"])
def test_invalid_figure_path_is_refused(
    runs: Logged, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", "a" * 8, "b" * 8, "--uri", runs.uri, "--to", str(tmp_path / to)]) == 2
    assert "must be a file .png in a folder that exists" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_replicates_are_paired_by_seed_else_by_number() -> None:
    assert pair_replicates(range(3, 6), range(4, 9)).pairs == [(1, 0), (2, 1)]
    assert pair_replicates(range(2), range(5, 8)).pairs == [(0, 0), (1, 1)]


def test_common_records_are_matched_by_key_and_compared_by_bits() -> None:
    """B has another probe, other replicates and other steps; −0 differs from 0, NaN equals NaN."""
    values = np.array([[1.0, np.nan], [0.0, 2.0]])
    a = tidy([Record(s, "delta_rms", (1, 2), values + s, True) for s in (0, 1, 2)])
    wide = np.array([[9.0, 1.0, np.nan], [9.0, 0.0, 2.0]])
    b = tidy(
        [
            r
            for s in (1, 2, 3)
            for r in (Record(s, "x", (), wide[:1], False), Record(s, "delta_rms", (1, 2), wide + s, True))
        ]
    )
    common = common_records(a, b, [(0, 1), (1, 2)])
    assert sorted(set(common[0]["step"])) == [1, 2]
    assert [len(table) for table in common] == [8, 8]
    assert first_record_difference(*common) is None
    b.loc[(b["step"] == 2) & (b["layer"] == 2) & (b["replicate"] == 2), "value"] = np.nextafter(4.0, 5)
    difference = first_record_difference(*common_records(a, b, [(0, 1), (1, 2)]))
    assert difference is not None
    assert (difference.step, difference.probe, difference.layer, difference.replicate, difference.first_value) == (
        2,
        "delta_rms",
        2,
        1,
        4.0,
    )
    zero = [tidy([Record(0, "x", (), np.array([[z]]), False)]) for z in (0.0, -0.0)]
    assert first_record_difference(*common_records(zero[0], zero[1], [(0, 0)])) is not None


def series(values: list[float], steps: list[int] | None = None) -> DifferenceSeries:
    return DifferenceSeries("θ", tuple(steps or range(len(values))), np.array(values))


def test_growth_rate_interval_covers_planted_rate() -> None:
    """From noisy points, the 95% interval covers the true rate in about 95% of 400 trials."""
    rng, covered = np.random.default_rng(0), 0
    steps = [0, 1, 3, 5, 10, 22, 47, 100, 150, 200]
    for _ in range(400):
        noise = rng.normal(0, 0.3, len(steps))
        rate = growth_rate(series((1e-12 * np.exp(0.05 * np.array(steps) + noise)).tolist(), steps))
        assert rate is not None
        covered += rate.low <= 0.05 <= rate.high
    assert 0.92 <= covered / 400 <= 0.98
    exact = growth_rate(series([1e-12 * math.exp(0.5 * t) for t in range(10)]))
    assert exact is not None
    assert exact.mean == pytest.approx(0.5)
    assert "tenfold every 4.61 steps" in str(exact)


def test_growth_rate_is_not_claimed_without_growth() -> None:
    rng = np.random.default_rng(1)
    flat = growth_rate(series((1e-10 * np.exp(rng.normal(0, 1, 40))).tolist()))
    assert flat is not None
    assert str(flat).startswith("no growth: ")
    assert str(growth_rate(series([1e-3 * math.exp(-t) for t in range(8)]))).startswith("shrinks: ")
    assert growth_rate(series([0.0] * 20)) is None
    assert growth_rate(series([1e-16, 2e-16, 1e-16, 3e-16, 1e-16])) is None  # rounding of norms
    grown = series([1e-8, 1e-6, 1e-4, 1e-2, 0.5, 0.6, 0.5, 0.6])
    fitted = growth_rate(grown)
    assert fitted is not None
    assert fitted.steps == (0, 3)  # no point above SATURATED is used
    assert fitted.mean == pytest.approx(math.log(100))
    assert grown.values[4] > SATURATED


def test_relative_difference_of_equal_and_non_finite_values() -> None:
    a, b = np.array([1.0, 0.0, np.inf, np.nan, 0.0]), np.array([1.5, 0.0, np.inf, 1.0, 2.0])
    np.testing.assert_array_equal(relative_difference(a, b), [0.5 / 1.5, 0.0, np.nan, np.nan, 1.0])
