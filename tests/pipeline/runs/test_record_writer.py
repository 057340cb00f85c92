"""The file of records: written in row groups, equal to the table of all records, and never uploaded unfinished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.commands import run_command
from support.configs import config
from support.stores import opened, uri

from pipeline.runs import record_writer
from pipeline.runs.record_writer import RecordWriter
from pipeline.training.loop import run
from pipeline.training.records import Record, tidy


def measured() -> list[Record]:
    """Records with layers, bins and empty bins, and without; numbers that are not finite, and both zeros."""
    overrides = ["data=iris", "replicates=2", "epochs=1", "schedule=every", "schedule.n=1", "batching.size=40"]
    records = [*run(config(*overrides)), *run(config(*overrides, "probes=exponents"))]
    strange = np.array([[np.nan, -np.inf], [np.inf, -0.0]])
    empty_bins = Record(9, "delta_exponents", (1, 2), np.zeros((2, 2, 3)), False, (-3, -2, -1), sparse=True)
    return [*records, empty_bins, Record(9, "delta_rms", (1, 2), strange, True), Record(9, "x", (), -strange[:1], True)]


def write(records: list[Record], path: Path) -> None:
    with RecordWriter(path) as writer:
        for record in records:
            writer.add(record)
        writer.finish()


@pytest.mark.parametrize("limit", ["ROWS", "RECORDS"])
@pytest.mark.parametrize("most", [1, 13, 10**9])
def test_file_equals_the_table_of_all_records(
    limit: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_writer, limit, most)
    records, path, expected_path = measured(), tmp_path / "records.parquet", tmp_path / "expected.parquet"
    write(records, path)
    tidy(records).to_parquet(expected_path, index=False)
    assert pq.ParquetFile(path).num_row_groups > 1 or most > len(records)
    assert pq.read_schema(path).equals(pq.read_schema(expected_path), check_metadata=True)
    table, expected = pd.read_parquet(path), pd.read_parquet(expected_path)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert (table.dtypes == expected.dtypes).all()
    assert table["value"].to_numpy().tobytes() == expected["value"].to_numpy().tobytes()


@pytest.mark.parametrize("records", [[], [r for r in measured() if r.sparse and not r.values.any()]])
def test_file_without_rows_equals_the_table_without_rows(records: list[Record], tmp_path: Path) -> None:
    write(records, tmp_path / "records.parquet")
    tidy(records).to_parquet(tmp_path / "expected.parquet", index=False)
    schema = pq.read_schema(tmp_path / "expected.parquet")
    assert pq.read_schema(tmp_path / "records.parquet").equals(schema, check_metadata=True)
    assert pq.read_metadata(tmp_path / "records.parquet").num_rows == 0


def test_unfinished_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_writer, "RECORDS", 2)
    with RecordWriter(tmp_path / "records.parquet") as writer:
        for record in measured():
            writer.add(record)
        assert (tmp_path / "records.parquet").exists()
    assert list(tmp_path.iterdir()) == []
    with RecordWriter(tmp_path / "records.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_failed_run_has_no_file_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_writer, "RECORDS", 2)
    add = RecordWriter.add

    def fail_late(writer: RecordWriter, record: Record) -> None:
        add(writer, record)
        if record.step == 10:
            assert writer.path.exists()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "add", fail_late)
    overrides = ("data=iris", "steps=20", "schedule=every", "schedule.n=1")
    shown = run_command(*overrides, f"tracking.uri={uri(tmp_path)}")
    assert shown.code == 1
    assert "No space left" in shown.text
    store = opened(tmp_path)
    (failed,) = store.search()
    assert failed.info.status == "FAILED"
    names = {file.path for file in store.client.list_artifacts(failed.info.run_id)}
    assert "traceback.txt" in names
    assert "records.parquet" not in names
