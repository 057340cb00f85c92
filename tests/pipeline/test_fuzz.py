"""Generated inputs of all kinds: a command works, or refuses in one line with exit code 2, and does nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import time
import unittest.mock
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.commands import Invocation, invoke
from support.examples import examples

from pipeline.cli import main

LONGEST = 20  # seconds that a command may take
FEW = 40  # generated inputs of each kind, outside the full tier
fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
printable = st.characters(codec="utf-8")
odd_texts = st.sampled_from(
    ["", " ", "[/]", "[red]x", "\x1b[31m", "\u202e", "%41", "?", "#", "null", "NaN", "1e999", "-1", "${seed}", "{a: 1}",
     "[1,2]", "[[[[", "'", '"', "\\", "a" * 3000, "0" * 400, "1_000", "０", "true", "None", "*x", "&x [*x]",
     "!!python/name:os"]
)  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder that must stay empty."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert not list(folder.iterdir())


def check(*argv: str) -> Invocation:
    """Run a command, and check what holds for every input."""
    start = time.monotonic()
    shown = invoke(*argv)
    assert time.monotonic() - start < LONGEST
    assert shown.code in (0, 2), shown.err
    assert "Traceback" not in shown.err
    if shown.code == 2:
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
        assert shown.err.rstrip("\n").isprintable()
    return shown


# A: tables

cells = st.one_of(
    st.integers(-5, 5).map(str),
    st.floats(width=32).map(str),
    st.sampled_from(["", "NA", "no", "no ", "?", "1,5", '"1,5"', '"', "#", "1e308", "-inf", "0.1", "0.1", "True"]),
    st.text(printable, max_size=5),
)
tables = st.lists(st.lists(cells, min_size=1, max_size=5), min_size=0, max_size=12)
rectangles = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=3, max_size=12)
)
keys: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "separator": st.sampled_from(["comma", "semicolon", "tab", "space", "whitespace", "pipe", "x", "ab"]),
        "decimal": st.sampled_from(["point", "comma", "apostrophe"]),
        "thousands": st.sampled_from(["comma", "point", "space", "null"]),
        "encoding": st.sampled_from(["utf-8", "latin-1", "utf-16", "cp1252", "ascii", "nonsense"]),
        "header": st.sampled_from(["true", "false", "null"]),
        "comment": st.sampled_from(["%", "x", "null"]),
        "missing_values": st.sampled_from(['["?"]', "[no]", "[]", "null"]),
        "missing": st.sampled_from(["drop", "refuse"]),
        "categorical": st.sampled_from(["one_hot", "refuse"]),
        "task": st.sampled_from(["classification", "regression"]),
    },
)


@settings(fuzz, max_examples=examples(900, FEW))
@given(
    st.one_of(
        st.tuples(
            st.one_of(tables, rectangles), st.sampled_from([",", ";", "\t", " "]), st.sampled_from(["\n", "\r\n", "\r"])
        ).map(lambda t: t[2].join(t[1].join(row) for row in t[0]).encode("utf-8", "replace")),
        st.binary(max_size=200),
    ),
    keys,
    st.sampled_from(["y", "column_1", "0", "no"]),
    st.booleans(),
)
def test_any_table_is_read_or_refused(
    tmp_path: Path, content: bytes, chosen: dict[str, str], target: str, named: bool
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b,y\n" + content if named else content)
    overrides = [f"data.source.{key}={value}" for key, value in chosen.items()]
    shown = check("data", "data=csv", f"data.source.path={path}", f"data.source.target={target}", *overrides)
    assert (shown.code == 0) == shown.out.startswith("data: ")


# B: stores and folders that are none


@settings(fuzz, max_examples=examples(300, FEW))
@given(
    st.sampled_from(["report", "verify", "import", "export", "reproduce"]),
    st.one_of(st.binary(max_size=300), st.none()),
    odd_texts,
)
def test_any_file_as_store_or_export_is_refused(tmp_path: Path, command: str, content: bytes | None, name: str) -> None:
    path = tmp_path / "store.db"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    uri = f"sqlite:///{path}"
    to = str(tmp_path / "output.html")
    arguments = {
        "report": ["--uri", uri, "--to", to],
        "verify": ["--from", str(path)],
        "import": ["--from", str(path), "--uri", uri],
        "export": ["--uri", uri, "--run", name, "--to", to],
        "reproduce": ["--uri", uri, "--", name],
    }[command]
    assert check(command, *arguments).code == 2
    assert (path.read_bytes() if path.exists() else None) == content
    assert not Path(to).exists()


# D: command lines

groups = st.sampled_from(
    ["activation", "init", "optimizer", "data", "architecture", "cost", "batching", "probes", "experiment", "schedule"]
)
paths = st.sampled_from(
    ["seed", "replicates", "epochs", "steps", "dtype", "architecture.hidden", "optimizer.learning_rate",
     "batching.size", "data.subset", "data.test_fraction", "tracking.metrics", "hydra.run.dir", "activation", "name",
     "evaluation.schedule.n", "lr", "optimizer.lr", "search.metric", "checkpoint.seconds", "init.weights.std"]
)  # fmt: skip
values = st.one_of(
    st.sampled_from(
        [
            "relu",
            "tanh",
            "he_normal",
            "sgd",
            "iris",
            "deep",
            "quadratic",
            "0",
            "1",
            "3",
            "0.1",
            "[5,4]",
            "depth",
            "1,2",
            "range(3)",
        ]
    ),
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
    odd_texts,
    st.text(printable, max_size=8),
)
words = st.one_of(
    st.tuples(st.sampled_from(["", "+", "++", "~"]), st.one_of(groups, paths), values).map(
        lambda t: f"{t[0]}{t[1]}={t[2]}"
    ),
    st.sampled_from(
        ["-m", "--multirun", "--cfg", "--cfg=job", "relu", "=", "a=", "=b", "seed", "~seed", "hydra.mode=MULTIRUN"]
    ),
    st.text(printable, min_size=1, max_size=12),
)


@settings(fuzz, max_examples=examples(800, FEW))
@given(st.lists(words, min_size=1, max_size=4))
def test_any_command_line_composes_or_is_refused(overrides: list[str]) -> None:
    shown = check("show", "--", *overrides)
    assert (shown.code == 0) == bool(shown.out)


# C: surroundings


@settings(fuzz, max_examples=examples(300, FEW))
@given(
    st.one_of(odd_texts, st.text(max_size=30)),
    st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8", "utf-16"]),
    st.integers(1, 200),
    st.sampled_from(["agg", "module://matplotlib_inline.backend_inline", "nonsense"]),
)
def test_any_name_is_printed_on_any_terminal(text: str, encoding: str, columns: int, backend: str) -> None:
    written, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    surroundings = {"COLUMNS": str(columns), "MPLBACKEND": backend, "PYTHONWARNINGS": "error"}
    name = "name=" + '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    with (
        unittest.mock.patch.dict(os.environ, surroundings),
        contextlib.redirect_stdout(written),
        contextlib.redirect_stderr(errors),
    ):
        code = main(["show", "--", name])
    for stream in (written, errors):
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in (written, errors))
    assert code in (0, 2)
    assert (code == 0) == bool(out)
    assert (code == 2) == (err.startswith("error: ") and err.count("\n") == 1)
