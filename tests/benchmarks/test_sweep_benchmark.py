"""The benchmark of sweeps: goals, the page, absent parts, fitted exponents, and stacks that change no byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer, sweep_commands, sweep_growth, sweep_jax
from benchmarks.sweep import ROWS, Measured, Part, main, measure
from benchmarks.sweep_commands import Grid, checkout, run_command
from benchmarks.sweep_growth import AXES, BASE, MEMORY, RUNS, STEPS, Growth, arithmetic_work, fitted_exponent
from benchmarks.sweep_page import BrokenError, Goal, Outcome, UnavailableError, absent_lines, lines_of, page
from benchmarks.sweep_stacks import (
    DIGITS_5,
    STACK_NETS,
    compare_stacks,
    digest,
    prepared_jobs,
    time_digits_stacks,
    time_sizes,
    train_together,
)
from pipeline.config.compose import compose_sweep
from pipeline.sweeps.stacks import bytes_of_cell, plan_stacks, stack_size
from pipeline.training.loop import StackCell, train_stack

TINY = Grid(rates=2, scales=1, seeds=2, steps=3)
SPEED, COST = Goal("speed", least=2.0), Goal("cost", most=60.0, unit="ms")


def measured(*parts: Part) -> Measured:
    (measured,) = measure({"row": parts}, quick=True, log=lambda line: None)
    return measured


def unavailable(quick: bool) -> Outcome:
    raise UnavailableError("the files are absent")


def broken(quick: bool) -> Outcome:
    raise BrokenError("exit code 3")


@pytest.mark.parametrize(
    ("goal", "value", "is_met"),
    [
        (SPEED, 2.0, True),
        (SPEED, 1.99, False),
        (COST, 60.0, True),
        (COST, 60.1, False),
        (COST, float("nan"), False),
        (Goal("both", most=2.0, least=1.0), 0.5, False),
        (Goal("none"), 1e9, True),
    ],
)
def test_goal_is_met_up_to_its_limit(goal: Goal, value: float, is_met: bool) -> None:
    assert goal.is_met(value) == is_met


def test_median_over_rounds_decides() -> None:
    (met,) = lines_of("row", [SPEED], Outcome({"speed": [1.1, 2.5, 3.2]}))
    assert (met.result, met.measured) == ("met", "2.50 [1.10, 3.20]")
    (missed,) = lines_of("row", [SPEED], Outcome({"speed": np.array([1.0, 1.5, 3.0])}))
    assert missed.is_missed


def test_quantity_without_a_limit_has_no_goal() -> None:
    (line,) = lines_of("row", [Goal("time", unit="s")], Outcome({"time": 0.01234}))
    assert line.cells() == ["`row`", "time", "-", "0.0123 s", "no goal"]
    assert not line.is_missed


def test_absent_part_is_reported_and_the_next_part_runs() -> None:
    result = measured(Part([SPEED], unavailable), Part([COST], lambda quick: Outcome({"cost": 1.0})))
    assert [line.result for line in result.lines] == ["not measured: the files are absent", "met"]
    assert not any(line.is_missed for line in result.lines)


def test_part_that_fails_misses_its_goals() -> None:
    (line,) = measured(Part([SPEED], broken)).lines
    assert line.is_missed
    assert "exit code 3" in line.result


def test_page_has_facts_lines_sections_and_plot() -> None:
    lines = [
        *lines_of("default", [SPEED, COST], Outcome({"speed": 2.5, "cost": 70.0})),
        *absent_lines("jax", [SPEED], UnavailableError("JAX is not installed")),
    ]
    text = page(lines, ["## Details"], "python -m benchmarks.sweep", ["CPU: some"], "sweeps_growth.png")
    assert "Written by `python -m benchmarks.sweep`." in text
    assert "- CPU: some" in text
    assert "| `default` | speed | at least 2 | 2.50 | met |" in text
    assert "| `default` | cost | at most 60 ms | 70 ms | **not met** |" in text
    assert "| `jax` | speed | at least 2 | - | not measured: JAX is not installed |" in text
    assert "## Details" in text
    assert text.endswith("(sweeps_growth.png)\n")


@pytest.mark.parametrize("value", [1.0, 3.0])
def test_command_writes_its_page_and_fails_if_a_goal_is_missed(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS, "start", [Part([SPEED], lambda quick: Outcome({"speed": value}))])
    written = tmp_path / "new" / "sweeps.md"
    assert main(["--rows", "start", "--write", str(written)]) == int(value < 2)
    assert main(["--rows", "start", "--no-check"]) == 0
    text = written.read_text(encoding="utf-8")
    assert "| `start` | speed |" in text
    assert "numpy" in text
    assert "png" not in text


def test_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "start,fast"])
    assert "'fast' is no row; allowed: default, customary" in capsys.readouterr().err


def test_quantities_of_a_row_are_distinct() -> None:
    for parts in ROWS.values():
        quantities = [goal.quantity for part in parts for goal in part.goals]
        assert len(set(quantities)) == len(quantities)


def test_rows_report_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "torch", None)
    monkeypatch.setattr(sweep_jax, "version", lambda: None)
    monkeypatch.setattr(sweep_commands, "FASHION", ["data=fashion_mnist", "data.source.folder=/nowhere"])
    rows = {name: ROWS[name] for name in ("customary", "jax")} | {"stacks": ROWS["stacks"][:1]}
    *_, measured = measure(rows, quick=True, log=lambda line: None)
    lines = measured.lines
    assert {(line.row, line.result.partition(" (")[0]) for line in lines} == {
        ("customary", "not measured: the files of Fashion-MNIST are absent"),
        ("stacks", "not measured: the files of Fashion-MNIST are absent"),
        ("jax", "not measured: JAX is not installed"),
    }
    monkeypatch.setattr(sweep_commands, "require_fashion_mnist", lambda: None)
    with pytest.raises(UnavailableError, match="PyTorch is not installed"):
        sweep_commands.time_customary(quick=True)


def test_missing_commit_is_reported() -> None:
    with pytest.raises(UnavailableError, match="no git checkout that has commit 0000000"), checkout("0" * 7):
        pass


def test_command_reports_time_memory_and_a_wrong_exit_code(tmp_path: Path) -> None:
    used = run_command(["-c", "import time; time.sleep(0.1); print('x' * 10)"], cwd=tmp_path)
    assert used.seconds >= 0.1
    assert 2**20 < used.peak_bytes < 2**30
    with pytest.raises(BrokenError, match="ended with exit code 3: the reason"):
        run_command(["-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)"])


def test_grid_composes_its_cells() -> None:
    cells = compose_sweep(TINY.overrides())
    assert len(cells) == TINY.cells == 4
    assert sweep_commands.FULL_GRID.cells == 256


@pytest.mark.parametrize("slope", [0.5, 1.0, 1.7])
def test_fitted_exponent_is_the_slope_of_a_power_law(slope: float) -> None:
    work = np.array([1.0, 10.0, 1e3, 1e6])
    assert fitted_exponent(work, 3e-5 * work**slope) == pytest.approx(slope)


def test_upper_half_excludes_fixed_costs() -> None:
    work = [10.0**k for k in range(8)]
    growth = Growth("cells", range(8), work, {RUNS: [100 + w for w in work]})
    assert growth.exponent(RUNS) < 0.8 < growth.exponent(RUNS, upper_half=True)
    two = Growth("cells", range(2), work[:2], {RUNS: work[:2]})
    assert two.exponent(RUNS, upper_half=True) == pytest.approx(1)


def test_growth_faster_than_linear_misses_its_goal() -> None:
    work = [1e6, 1e8, 1e10]
    series = {STEPS: [w**1.2 * 1e-9 for w in work], MEMORY: [w**0.5 for w in work]}
    outcome = sweep_growth.growth_outcome([Growth("depth", [2, 20, 200], work, series)])
    goals = [goal for goal in sweep_growth.GROWTH_GOALS if goal.quantity in outcome.values]
    assert {line.goal.quantity: line.result for line in lines_of("growth", goals, outcome)} == {
        "depth: exponent of training steps": "**not met**",
        "depth: exponent of memory": "met",
    }
    assert "| depth | 2 to 200 | 10,000× | training steps |" in outcome.sections[1]
    assert outcome.figure is not None
    assert [panel.get_title() for panel in outcome.figure.axes[:1]] == ["depth, 2 to 200"]


def test_work_is_counted_from_the_layers_of_all_cells() -> None:
    jobs = prepared_jobs(
        ["architecture.hidden=[5]", "steps=3", "batching.size=7", "replicates=2", "optimizer.learning_rate=0.1,0.2"]
    )
    assert arithmetic_work([job.run for job in jobs]) == 2 * 2 * 4 * 7 * 6 * (64 * 5 + 5 * 10)


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: str(axis.name))
def test_axis_changes_one_key_of_the_base(axis: sweep_growth.Axis) -> None:
    keys = [{text.partition("=")[0] for text in axis.overrides(axis.sizes[place])} for place in (0, 1)]
    assert keys[0] == keys[1] >= {text.partition("=")[0] for text in BASE}
    assert len(compose_sweep(axis.overrides(axis.sizes[1]))) == (axis.sizes[1] if axis.name == "stack" else 1)


def test_stacks_have_the_records_of_the_cells_alone() -> None:
    stacks = plan_stacks(prepared_jobs([*DIGITS_5, *TINY.overrides()]))
    assert sum(map(len, stacks)) == TINY.cells > len(stacks)
    compared = compare_stacks(stacks, rounds=2)
    assert (compared.different, compared.cells) == (0, TINY.cells)
    assert len(compared.step_ratios) == len(compared.ratios) == 2
    assert all(ratio > 0 for ratio in compared.step_ratios)


def test_quick_row_of_stacks_measures_all_its_goals() -> None:
    (part,) = [part for part in ROWS["stacks"] if part.measure is time_digits_stacks]
    lines = measured(part).lines
    assert [line.goal for line in lines] == list(part.goals)
    assert lines[-1].measured == "0 cells"


def test_digest_depends_on_every_byte_of_a_record() -> None:
    (job,) = prepared_jobs(["steps=1", "probes=essential"])
    records = [record for _, record in train_stack([StackCell(job.run)])]
    assert train_together([job.run]).digests == [digest(records)]
    values = records[0].values.copy()
    values.flat[0] = np.nextafter(values.flat[0], np.inf)
    assert digest([records[0]._replace(values=values), *records[1:]]) != digest(records)
    assert digest([records[0]._replace(step=7), *records[1:]]) != digest(records)
    assert digest(records[1:]) != digest(records)


def test_stack_sizes_have_times_and_the_counted_bytes() -> None:
    net = replace(STACK_NETS[2], overrides=["architecture.hidden=[4]"])
    times = time_sizes(net, (1, 3), rounds=1, cell_steps=0)
    assert list(times.seconds) == [1, 3]
    (job,) = prepared_jobs(["architecture.hidden=[4]"])
    assert (times.bytes_of_cell, times.planned) == (bytes_of_cell(job.run), stack_size(job.run))
    assert times.cell(3).endswith(f"({3 * times.bytes_of_cell / 2**20:.1f})")
    assert times.cell(2) == "-"
    assert times.loss >= 1
