"""Texts that are longer than MLflow accepts, or that no database stores, do not end a run or a sweep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH
from support.commands import sweep_command
from support.stores import opened, uri

from pipeline.tracking import text_limits
from pipeline.tracking.store import download

IRIS = ["data=iris", "epochs=2", "architecture=deep", "architecture.width=2", "architecture.depth=2", "name=small"]


def test_limits_are_those_of_mlflow() -> None:
    limits = (text_limits.TAG_LENGTH, text_limits.PARAM_LENGTH, text_limits.NAME_LENGTH)
    assert limits == (MAX_TAG_VAL_LENGTH, MAX_PARAM_VAL_LENGTH, MAX_ENTITY_KEY_LENGTH)


def test_key_is_accepted_if_and_only_if_mlflow_accepts_it(tmp_path: Path) -> None:
    log = opened(tmp_path).start("keys", {})
    client = MlflowClient(uri(tmp_path))
    for key in ("a", "a.b/c d:e-f", "ä", "k" * 250):
        client.log_param(log.run_id, key, "1")
        assert text_limits.is_key(key)
    for key in ("", "a b?", "a[0]", "/a", "a/", "a//b", "a/../b", "."):
        with pytest.raises(MlflowException):
            client.log_param(log.run_id, key, "1")
        assert not text_limits.is_key(key)


def test_texts_that_no_store_accepts_are_cut_or_replaced(tmp_path: Path) -> None:
    store = opened(tmp_path)
    log = store.start("n" * 9000, {"first": "f" * 9000, "half": "\ud800\0"})
    log.params({"long": "p" * 7000, "k" * 251: "left out", "not [a] key": "left out", "half": "\udcff"})
    log.tags({"mlflow.note.content": "d" * 9000})
    log.text("\ud800", "half.txt")
    assert log.end("FINISHED")
    run = store.find(log.run_id)
    assert run.info.run_name == "n" * 250
    assert run.data.tags["half"] == "?\ufffd"
    assert run.data.params.keys() == {"long", "half"}
    assert len(run.data.params["long"]) == 6000
    for name, text in (("first.txt", "f" * 9000), ("description.md", "d" * 9000)):
        assert download(store, log.run_id, name, tmp_path).read_text() == text


@pytest.mark.thorough
def test_sweep_of_a_hundred_cells_has_its_whole_table(tmp_path: Path) -> None:
    seeds = ",".join(map(str, range(100)))
    done = sweep_command(*IRIS, "replicates=1", "probes=none", f"seed={seeds}", f"tracking.uri={uri(tmp_path)}")
    assert done.code == 0
    assert "100 runs: 100 trained" in done.text
    store = opened(tmp_path)
    (summary,) = store.search("tags.kind = 'sweep'")
    table = download(store, summary.info.run_id, "sweep.csv", tmp_path).read_text().splitlines()
    assert len(table) == 101
    note = summary.data.tags["mlflow.note.content"]
    if note.endswith(text_limits.CUT):
        assert download(store, summary.info.run_id, "description.md", tmp_path).read_text().count("\n| ") >= 101


def test_run_of_many_diverged_replicates_names_them_all(tmp_path: Path) -> None:
    sweep = [*IRIS, "replicates=80", "seed=1,2", "activation=relu", "optimizer.learning_rate=1e300"]
    sweep.append(f"tracking.uri={uri(tmp_path)}")
    done = sweep_command(*sweep)
    assert done.code == 0, done.text
    store = opened(tmp_path)
    run = store.search("tags.kind = 'run'")[0]
    diverged = run.data.tags["diverged_replicates"].split(",")
    assert len(diverged) >= 60
    assert run.data.tags["mlflow.note.content"].endswith(text_limits.CUT)
    assert download(store, run.info.run_id, "description.md", tmp_path).read_text().count("\n- ") == len(diverged)
    again = sweep_command(*sweep)
    counts = [re.findall(r"(\d+), from step", shown.text) for shown in (done, again)]
    assert counts[0] == counts[1]
    assert str(len(diverged)) in counts[0]
