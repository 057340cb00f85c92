"""Tables of networks that were trained elsewhere: read exactly, or refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configs import config

from pipeline.analysis.measurements import QUANTITIES, read_measurements
from pipeline.errors import ConfigError
from pipeline.training.loop import run
from pipeline.training.records import Record, tidy

NAN, INF = np.nan, np.inf


def table(**columns: Any) -> pd.DataFrame:
    """Two steps of a network with two hidden layers; columns replace or add to those of the table."""
    place = {"step": [0, 0, 0, 1, 1, 1], "layer": [1, 2, 3, 1, 2, 3], "delta_rms": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
    return pd.DataFrame(place | columns)


def with_costs(costs: list[float], **columns: Any) -> pd.DataFrame:
    """The table with rows of the whole network."""
    whole = pd.DataFrame({"step": range(len(costs)), "cost_train": costs})
    return pd.concat([table(**columns), whole], ignore_index=True)


def values(records: list[Record]) -> dict[tuple[int, str], tuple[tuple[int, ...], list[Any]]]:
    return {(r.step, r.probe): (r.layers, r.values.tolist()) for r in records}


def test_each_quantity_becomes_a_record_of_its_step() -> None:
    measured = read_measurements(with_costs([2.0, 1.0], gradient_norm=[1, 2, 3, 4, 5, 6]))
    assert values(measured.records) == {
        (0, "delta_rms"): ((1, 2, 3), [[0.1], [0.2], [0.3]]),
        (1, "delta_rms"): ((1, 2, 3), [[0.4], [0.5], [0.6]]),
        (0, "gradient_norm"): ((1, 2, 3), [[1], [2], [3]]),
        (1, "gradient_norm"): ((1, 2, 3), [[4], [5], [6]]),
        (0, "cost/train"): ((), [[2.0]]),
        (1, "cost/train"): ((), [[1.0]]),
    }
    assert (measured.layers, measured.replicates, measured.divergences) == (3, 1, [])
    assert [r.geometric for r in measured.records if r.probe == "cost/train"] == [False, False]


def test_order_of_rows_and_types_of_columns_do_not_matter() -> None:
    plain = read_measurements(table())
    shuffled = table().sample(frac=1, random_state=0)
    typed = table().astype({"step": "Int64", "layer": "float32", "delta_rms": object})
    for other in (shuffled, typed, table().set_index("step", drop=False)):
        assert values(read_measurements(other).records) == values(plain.records)


def test_records_of_a_run_are_read_exactly() -> None:
    """Oracle: the records that the table was made from."""
    records = list(run(config("data=iris", "architecture.hidden=[5,4]", "epochs=1", "replicates=2")))
    probes = {quantity.probe for quantity in QUANTITIES.values()} - {"saturated_fraction"}  # may be of a rectifier
    judged = {(r.step, r.probe): (r.layers, r.values.tolist()) for r in records if r.probe in probes}
    measured = read_measurements(tidy(records))
    assert values(measured.records) == judged
    assert (measured.layers, measured.replicates) == (3, 2)


def test_steps_of_quantities_may_differ_and_empty_cells_are_no_values() -> None:
    measured = read_measurements(table(gradient_norm=[1, 2, 3, NAN, NAN, NAN], dead_fraction=[0, 0.5, NAN] * 2))
    found = values(measured.records)
    assert (1, "gradient_norm") not in found
    dead = found[1, "dead_fraction"][1]
    assert dead[:2] == [[0.0], [0.5]]
    assert np.isnan(dead[2][0])


@pytest.mark.parametrize("bad", [NAN, INF])
def test_network_whose_error_is_not_finite_until_the_end_has_diverged(bad: float) -> None:
    both = pd.concat([table(replicate=0), table(replicate=1, delta_rms=[1.0, 1.0, 1.0, bad, bad, 2.0])])
    measured = read_measurements(both)
    (divergence,) = measured.divergences
    said = "replicate 1 diverged at step 1: δ of layer 2 was the first to be not finite (2 entries)"
    assert divergence.finding.sentence() == said
    assert not measured.summary().has_diverged
    assert read_measurements(table(delta_rms=[1.0, 1.0, 1.0, bad, bad, bad])).summary().has_diverged


BAD = {
    "not a DataFrame": ({"step": [0]}, "table: is a dict; must be a DataFrame"),
    "empty": (table().iloc[:0], "table: has no rows"),
    "missing column": (table().drop(columns="layer"), "layer: is missing; must be a column (allowed: step, layer,"),
    "missing delta": (table().drop(columns="delta_rms"), "delta_rms: is missing; must be a column"),
    "misspelled": (table(gradient_nrom=1.0), "gradient_nrom: unknown column; did you mean gradient_norm?"),
    "numbered columns": (pd.DataFrame(np.zeros((2, 2))), "0: unknown column"),
    "twice the column": (pd.concat([table(), table()], axis=1), "step: stands in 2 columns; must be one"),
    "text": (table(delta_rms=["a"] * 6), "delta_rms='a' in row 0: must be a number"),
    "late text": (table(delta_rms=[1, 1, "1,5", 1, 1, 1]), "delta_rms='1,5' in row 2: must be a number"),
    "long text": (table(delta_rms=["x" * 500] * 6), f"delta_rms='{'x' * 39}... in row 0: must be a number"),
    "text as step": (table(step=["first"] * 6), "step='first' in row 0: must be a number"),
    "half a step": (table(step=[0, 0, 0, 0.5, 1, 1]), "step=0.5 in row 3: must be a whole number >= 0"),
    "negative step": (table(step=[0, 0, 0, 1, 1, -1]), "step=-1 in row 5: must be a whole number >= 0"),
    "no step": (table(step=[0, 0, NAN, 1, 1, 1]), "step=nan in row 2: must be a whole number >= 0"),
    "endless step": (table(step=[0, 0, INF, 1, 1, 1]), "step=inf in row 2: must be a whole number >= 0"),
    "layer 0": (table(layer=[0, 1, 2] * 2), "layer=0 in row 0: must be a whole number >= 1"),
    "negative replicate": (table(replicate=-1), "replicate=-1 in row 0: must be a whole number >= 0"),
    "negative norm": (table(delta_rms=[1, -2, 1, 1, 1, 1]), "delta_rms=-2 in row 1: must be >= 0"),
    "share of 2": (table(dead_fraction=2.0), "dead_fraction=2 in row 0: must be in [0, 1]"),
    "infinite share": (table(dead_fraction=-INF), "dead_fraction=-inf in row 0: must be in [0, 1]"),
    "no layers": (table(layer=NAN), "delta_rms=0.1 in row 0: must stand in a row with a layer"),
    "cost with a layer": (table(cost_train=1.0), "cost_train=1 in row 0: must stand in a row without a layer"),
    "one layer": (table().query("layer == 1"), "layer: has 1; must be 1, 2, ... L"),
    "gap": (table(layer=[1, 2, 4] * 2), "layer: has 1, 2, 4; must be 1, 2, ... L"),
    "late replicates": (table(replicate=3), "replicate: has 3; must be 0, 1, ..."),
    "repeated row": (
        table(layer=[1, 2, 3, 1, 2, 2]), "delta_rms: rows 4 and 5 are both for step 1, layer 2, replicate 0",
    ),
    "repeated cost": (
        pd.concat([with_costs([1.0]), with_costs([1.0]).tail(1)]),
        "cost_train: rows 6 and 7 are both for step 0, replicate 0",
    ),
    "missing row": (table().drop(index=5), "delta_rms: has no value at step 1, layer 3, replicate 0"),
    "missing first row": (table().drop(index=0), "delta_rms: has no value at step 0, layer 1, replicate 0"),
    "hole": (
        table(delta_rms=[1.0, NAN, 1.0, 1.0, 1.0, 1.0]),
        "delta_rms: is empty or not finite at step 0, replicate 0, but finite at step 1",
    ),
    "fewer replicates": (
        pd.concat([with_costs([1.0], replicate=0), table(replicate=1)]).fillna({"replicate": 0}),
        "cost_train: has 1 replicates; must have the 2 of delta_rms",
    ),
    "complex": (table(delta_rms=[1j] * 6), "delta_rms=1j in row 0: must be a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_in_one_line(case: str) -> None:
    bad: Any
    bad, message = BAD[case]
    with pytest.raises(ConfigError) as refusal:
        read_measurements(bad)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


cells = st.one_of(st.integers(-1, 4), st.floats(), st.none(), st.sampled_from(["", "a", "1", True, 10**30]))
names = st.sampled_from([*QUANTITIES, "step", "layer", "replicate", "probe", "value", "bin", "x"])


@given(st.dictionaries(names, st.lists(cells, min_size=3, max_size=3), max_size=6))
def test_any_table_is_read_or_refused_in_one_line(columns: dict[str, list[Any]]) -> None:
    try:
        measured = read_measurements(pd.DataFrame(columns))
    except ConfigError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 (either is right)
    else:
        assert measured.layers >= 2
