"""Tables of a user's own: every dialect is read as it was written, and what could be read in two ways is refused."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.commands import invoke
from support.configs import csv_source, prepared

from pipeline.data.description import TableDescription
from pipeline.data.files import Csv, Parquet
from pipeline.data.prepare import DataConfig, prepare
from pipeline.data.table import Table
from pipeline.training.streams import RandomStreams

TWENTY = range(20)


def source(folder: Path, text: str, **arguments: Any) -> Csv:
    path = folder / "table.csv"
    path.write_bytes(text.encode(arguments.get("encoding", "utf-8")))
    return csv_source(path, **arguments)


def load(folder: Path, text: str, **arguments: Any) -> Table:
    return source(folder, text, **arguments).load(np.random.default_rng(0))


def refusal(folder: Path, text: str, **arguments: Any) -> str:
    with pytest.raises(ValueError, match=r"^[a-z_]+=") as error:
        load(folder, text, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def description(table: Table) -> TableDescription:
    assert table.description is not None
    return table.description


def rows(*columns: Any) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


# Constant columns, overflow


@pytest.mark.parametrize("value", [0.1, 14.62, 1 / 3, 1e200, 1e-200, 5e-324, -7e15])
@pytest.mark.parametrize("rare", [1.0, 1e6])
def test_input_constant_in_the_training_rows_is_zero_in_all(tmp_path: Path, value: float, rare: float) -> None:
    """A column that differs in one row only is constant in most training sets; its rounding error is no scale."""
    x = np.linspace(-1, 1, 200)
    flags = [rare if i == 57 else value for i in range(200)]
    text = "a,flag,y\n" + rows(map(repr, x.tolist()), map(repr, flags), map(repr, (2 * x).tolist()))
    chosen = DataConfig(source(tmp_path, text, task="regression"), 0.2, None, True)
    for seed in range(12):
        data = prepare(chosen, RandomStreams.of(seed, 1).data, np.float64)
        assert np.isfinite(data.x).all()
        if 57 in data.test[0]:
            assert (data.x[:, 1] == 0).all()
        else:
            assert abs(data.x[data.train[0], 1].std() - 1) < 1e-9


@pytest.mark.parametrize("exponent", [-300, -160, 150, 200, 307])
def test_standardised_values_do_not_depend_on_their_unit(tmp_path: Path, exponent: int) -> None:
    """Multiplying a column by a power of two changes no digit of it, so its standardised values are the same bits."""
    x = np.random.default_rng(3).standard_normal(50)
    units = (1.0, 2.0 ** round(exponent * math.log2(10)))
    scaled = []
    for unit in units:
        text = "a,y\n" + rows(map(repr, (x * unit).tolist()), [i % 2 for i in range(50)])
        scaled.append(prepared(source(tmp_path, text), standardise=True).x)
    np.testing.assert_array_equal(scaled[0], scaled[1])


@pytest.mark.parametrize("constant", ["14.62", "0.1", "1e200", "red"])
def test_constant_inputs_are_left_out_and_named(tmp_path: Path, constant: str) -> None:
    table = load(tmp_path, "a,c,y\n" + rows(TWENTY, [constant] * 20, [i % 2 for i in TWENTY]), categorical="one_hot")
    assert table.x[:, 0].tolist() == [*map(float, TWENTY)]
    assert description(table).columns == {"a": 1}
    assert "always" in description(table).left_out["c"]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_constant_target_is_refused(tmp_path: Path, task: str) -> None:
    text = "a,y\n" + rows(TWENTY, ["0.5"] * 20)
    assert "target=y: always 0.5 in all 20 rows" in refusal(tmp_path, text, task=task)


def test_table_of_constant_inputs_only_is_refused(tmp_path: Path) -> None:
    assert "no input besides the target 'y' (a: always 3)" in refusal(tmp_path, "a,y\n3,0\n3,1\n3,0\n")


def test_infinite_value_is_named(tmp_path: Path) -> None:
    assert "column 'a': the value in line 3 is infinite" in refusal(tmp_path, "a,y\n1,0\n1e999,1\n2,1\n")


# Rows and names


@pytest.mark.parametrize(("row", "width"), [("1,2,3,0", 4), ("1,0", 2), ("1,2,0,", 4)])
def test_row_of_another_width_is_named(tmp_path: Path, row: str, width: int) -> None:
    text = f'a,b,y\n1,2,0\n\n"3",4,1\n{row}\n5,6,1\n'
    assert f"line 5 has {width} values, the header has 3" in refusal(tmp_path, text)


def test_rows_that_are_all_wider_than_the_header_are_refused(tmp_path: Path) -> None:
    assert "line 2 has 4 values, the header has 3" in refusal(tmp_path, "y,a,b\n1,1,5,1\n0,2,0,2\n1,0,5,3\n")


def test_repeated_names_are_refused(tmp_path: Path) -> None:
    assert "the name 'y' is that of columns 2 and 4" in refusal(tmp_path, "a,y,b, y \n1,0,2,0\n2,1,3,1\n")
    assert "header=false" in refusal(tmp_path, "5.0,3.5,5.0,iris\n1,2,3,ant\n4,5,6,bee\n")


def test_index_that_pandas_wrote_is_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [5.0, 6.0, 7.0], "y": [0, 1, 0]})
    table = load(tmp_path, frame.to_csv())
    assert table.x.tolist() == [[5], [6], [7]]
    assert description(table).left_out == {"column 1": "no name: the index that pandas writes"}
    twice = load(tmp_path, pd.read_csv(io.StringIO(frame.to_csv())).to_csv())
    assert twice.x.tolist() == [[5], [6], [7]]
    assert set(description(twice).left_out) == {"column 1", "Unnamed: 0"}


def test_column_without_a_name_but_with_values_is_refused(tmp_path: Path) -> None:
    assert "column 2 has no name" in refusal(tmp_path, "a,,y\n1,2,0\n3,4,1\n")
    empty = load(tmp_path, "a,y,\n1,0,\n3,1,\n")
    assert description(empty).left_out == {"column 3": "no name and no values"}


# Texts and numbers


def test_stray_text_among_numbers_is_named_with_its_line_and_the_key(tmp_path: Path) -> None:
    values: list[Any] = list(range(40))
    values[7] = values[9] = "?"
    text = "hp,y\n" + rows(values, [i % 2 for i in range(40)])
    for categorical in ("refuse", "one_hot"):
        message = refusal(tmp_path, text, categorical=categorical)
        assert "column 'hp': '?' in line 9 is not a number (one of 2 such values in 40 rows)" in message
        assert """'data.source.missing_values=["?"]' data.source.missing=drop""" in message
    table = load(tmp_path, text, missing_values=("?",), missing="drop")
    assert len(table.x) == 38
    assert description(table).dropped == {"lack a value": 2}


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (["20,380", "1,234", "19,600"], {"thousands": "comma"}),
        (["20,38", "1,2", "19,6"], {"decimal": "comma"}),
        (["1.234,5", "7.000,25", "1.000,0"], {"decimal": "comma", "thousands": "point"}),
        (["1 234", "20 000", "3 456 789"], {"thousands": "space"}),
        (["1'234.5", "20'000", "3'456'789"], {"thousands": "apostrophe"}),
    ],
)
def test_numbers_in_another_format_suggest_its_keys(tmp_path: Path, values: list[str], keys: dict[str, str]) -> None:
    text = "a,y\n" + "".join(f'"{v}",{i % 2}\n' for i, v in enumerate(values))
    message = refusal(tmp_path, text)
    assert message.endswith("perhaps " + " ".join(f"data.source.{k}={v}" for k, v in keys.items()))
    plain = [float(v.translate({ord(c): None for c in " '"})) for v in _plain(values, keys)]
    assert load(tmp_path, text, **keys).x[:, 0].tolist() == plain


def _plain(values: list[str], keys: dict[str, str]) -> list[str]:
    mark = {"comma": ",", "point": ".", None: ""}
    thousands, decimal = mark.get(keys.get("thousands"), ""), mark[keys.get("decimal", "point")]
    return [v.replace(thousands, "").replace(decimal, ".") if thousands else v.replace(decimal, ".") for v in values]


def test_categories_called_none_and_na_are_categories(tmp_path: Path) -> None:
    text = "kind,b,y\n" + rows(["None", "NA", "red"] * 8, range(24), [i % 2 for i in range(24)])
    table = load(tmp_path, text, categorical="one_hot", missing="drop")
    assert table.x[:3].tolist() == [[0, 0, 1, 0], [1, 1, 0, 0], [2, 0, 0, 1]]
    assert len(table.x) == 24
    assert "'NA', 'None': texts, not missing values" in description(table).notes[0]
    fewer = load(tmp_path, text, categorical="one_hot", missing="drop", missing_values=("NA",))
    assert (len(fewer.x), fewer.x.shape[1]) == (16, 3)


@pytest.mark.parametrize("token", ["NA", "NaN", "nan", "null", "None", "N/A", ""])
def test_missing_number_is_missing_in_a_column_of_numbers(tmp_path: Path, token: str) -> None:
    text = f"a,y\n1.5,0\n{token},1\n2.5,1\n3.5,0\n"
    assert "1 row lacks a value, the first in column 'a', line 3 (1 of 4" in refusal(tmp_path, text)
    table = load(tmp_path, text, missing="drop")
    assert table.x.tolist() == [[1.5], [2.5], [3.5]]


def test_spaces_around_texts_and_names_do_not_count(tmp_path: Path) -> None:
    table = load(tmp_path, " a , y\n1, no\n2, no \n3,yes\n4,yes \n")
    assert table.y.tolist() == [0, 0, 1, 1]
    assert description(table).labels == ["no", "yes"]
    assert description(table).notes == ["column y: spaces around 2 values are left out"]


def test_real_target_suggests_regression(tmp_path: Path) -> None:
    many = np.round(np.random.default_rng(0).uniform(0, 30, 4000), 1).tolist()  # 300 values: fewer than half the rows
    assert "perhaps data.source.task=regression" in refusal(tmp_path, "a,y\n" + rows(range(4000), many))


def test_text_with_a_value_of_its_own_in_most_rows_is_no_category(tmp_path: Path) -> None:
    text = "name,y\n" + rows([f"n{i}" for i in range(60)], [i % 2 for i in range(60)])
    assert "60 different texts in 60 rows, which are no categories" in refusal(tmp_path, text, categorical="one_hot")


# Dialects


def test_other_separator_and_missing_header_are_suggested(tmp_path: Path) -> None:
    semicolons = "a;b;y\n20,38;-0,66;0\n19,6;-0,61;1\n"
    assert "perhaps data.source.separator=semicolon" in refusal(tmp_path, semicolons)
    assert "perhaps data.source.separator=semicolon" in refusal(tmp_path, semicolons.replace(",", "."))
    assert "perhaps data.source.separator=tab" in refusal(tmp_path, "a\ty\n1\t0\n2\t1\n")
    assert "perhaps data.source.separator=whitespace" in refusal(tmp_path, "a   y\n1   0\n2   1\n")
    numbers = "20.38,-0.66,0\n19.6,-0.61,1\n21.92,-1.61,0\n"
    for target in ("y", "0"):
        assert "data.source.header=false" in refusal(tmp_path, numbers, target=target)
    table = load(tmp_path, numbers, target="column_3", header=False)
    assert (table.x.tolist(), table.y.tolist()) == ([[20.38, -0.66], [19.6, -0.61], [21.92, -1.61]], [0, 1, 0])
    assert "perhaps data.source.header=false" in refusal(tmp_path, "5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,other\n")


def test_other_encoding_is_suggested(tmp_path: Path) -> None:
    text = "größe,y\n1,ja\n2,nein\n3,jä\n"
    path = tmp_path / "table.csv"
    chosen = source(tmp_path, text)
    for written, suggested in (("latin-1", "cp1252"), ("utf-16", "utf-16")):
        path.write_bytes(text.encode(written))
        with pytest.raises(ValueError, match=rf"^encoding=utf-8: .*perhaps data.source.encoding={suggested}$"):
            chosen.load(np.random.default_rng(0))
        assert replace(chosen, encoding=suggested).load(np.random.default_rng(0)).classes == 3


def test_unknown_encoding_is_refused(tmp_path: Path) -> None:
    chosen = source(tmp_path, "a,y\n1,0\n2,1\n")
    with pytest.raises(ValueError, match=r"^encoding=utf-99: unknown"):
        replace(chosen, encoding="utf-99")


def test_byte_order_mark_and_compression_are_no_part_of_the_text(tmp_path: Path) -> None:
    expected = [[1.0], [2.0], [3.0]]
    assert load(tmp_path, "\ufeffa,y\n1,0\n2,1\n3,0\n").x.tolist() == expected
    frame = pd.DataFrame({"a": [1, 2, 3], "y": [0, 1, 0]})
    for suffix in (".gz", ".bz2", ".xz"):
        path = tmp_path / f"table.csv{suffix}"
        frame.to_csv(path, index=False)
        table = csv_source(path).load(np.random.default_rng(0))
        assert table.x.tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"separator": ";;"}, "separator=;;: must be one character"),
        ({"separator": "a"}, "separator=a: must be one character"),
        ({"thousands": "point"}, "decimal=point: thousands is the same character"),
        ({"comment": ","}, "comment=,: must differ"),
    ],
)
def test_contradictory_dialect_is_refused(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    assert message in refusal(tmp_path, "a,y\n1,0\n2,1\n", **arguments)


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="latin-1", exclude_categories=["Cc", "Cs"]), max_size=6).map(str.strip)


@st.composite
def dialects(draw: st.DrawFn) -> dict[str, Any]:
    separator = draw(st.sampled_from([",", ";", "\t", "|", " "]))
    decimal = draw(st.sampled_from([d for d in ".," if d != separator]))
    comment = draw(st.sampled_from([None, "#", "%"]))
    encoding = draw(st.sampled_from(["utf-8", "latin-1", "utf-16"]))
    return {
        "separator": separator,
        "decimal": decimal,
        "comment": comment,
        "encoding": encoding,
        "header": draw(st.booleans()),
    }


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dialects(),
    st.lists(
        st.tuples(numbers, numbers, st.sampled_from(["wasp", "bee", "a,b", "c;d", 'say "x"', "ä|ö"])),
        min_size=4,
        max_size=12,
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_table_written_in_any_dialect_and_read_with_its_keys_is_the_same(
    tmp_path: Path, dialect: dict[str, Any], table: list[tuple[float, float, str]], line_end: str
) -> None:
    labels = [label for _, _, label in table]
    assume(len(set(labels)) > 1)
    inputs = np.array([[a, b] for a, b, _ in table])
    assume((inputs != inputs[0]).any(axis=0).all())
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=dialect["separator"], lineterminator=line_end)
    if dialect["header"]:
        writer.writerow(["a", "b", "y"])
    for a, b, label in table:
        writer.writerow([repr(v).replace(".", dialect["decimal"]) for v in (a, b)] + [label])
    text = buffer.getvalue()
    if dialect["comment"]:
        text = f"{dialect['comment']} written by hand{line_end}" + text
    target = "y" if dialect["header"] else "column_3"
    read = load(tmp_path, text, target=target, **dialect)
    np.testing.assert_array_equal(read.x, inputs)
    assert [description(read).labels[i] for i in read.y] == labels


def test_thousands_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = [1234567.5, 0.25, 1000.0, 999.0]
    for mark, word in ((",", "comma"), ("'", "apostrophe")):
        text = "a,y\n" + "".join(f'"{v:,}",{i % 2}\n'.replace(",", mark) for i, v in enumerate(values)).replace(
            f'"{mark}', '",'
        )
        assert load(tmp_path, text, thousands=word).x[:, 0].tolist() == values


# Parquet


def test_parquet_follows_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame(
        {"a": [1.0, 2.0, 3.0, 4.0], "c": [0.1] * 4, "n": ["1", "NA", "3", "4"], "y": ["p ", "q", "p", "q"]}
    )
    frame.to_parquet(path)
    chosen = Parquet(str(path), "y", "classification", "refuse", "refuse")
    with pytest.raises(ValueError, match="1 row lacks a value, the first in column 'n', row 2"):
        chosen.load(np.random.default_rng(0))
    table = replace(chosen, missing="drop").load(np.random.default_rng(0))
    assert (table.x.tolist(), table.y.tolist()) == ([[1, 1], [3, 3], [4, 4]], [0, 0, 1])
    assert set(description(table).left_out) == {"c"}
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"^path=.*cannot read it"):
        chosen.load(np.random.default_rng(0))


# Commands


def keys(path: Path, *more: str) -> list[str]:
    return ["data=csv", f"data.source.path={path}", "data.source.target=y", *more]


def test_data_command_prints_what_was_read_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(",a,c,y\n0,1,7,no\n1,2,7,yes\n2,,7,no\n3,4,7,no \n4,5,7,no\n,,,\n")
    shown = invoke("data", *keys(path, "data.source.missing=drop", "data.test_fraction=0.25"))
    assert shown.code == 0
    assert shown.out.splitlines() == [
        "data: 4 rows (3 for training, 1 for testing), 1 input, 2 classes",
        "rows read: 6; dropped: 1 empty, 1 lack a value",
        "columns used: a",
        "columns left out: column 1 (no name: the index that pandas writes), c (always 7)",
        "column y: spaces around 1 values are left out",
        "classes: no 3, yes 1",
        shown.out.splitlines()[-1],
    ]
    assert shown.out.splitlines()[-1].startswith("always guessing the largest class is right in ")
    assert list(tmp_path.iterdir()) == [path]


def test_data_command_prints_the_size_of_the_validation_set(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(50)))
    shown = invoke("data", *keys(path, "data.validation_fraction=0.25"))
    assert shown.out.startswith(
        "data: 50 rows (30 for training, 10 for validation, 10 for testing), 1 input, 2 classes\n"
    )


def test_data_command_refuses_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,y\n1,0\n2,0\n")
    shown = invoke("data", *keys(path))
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == "error: data.source.target=y: always 0 in all 2 rows, so there is nothing to learn\n"
