"""Records are written to a file and read bit for bit; damage is detected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training import array_files
from pipeline.training.array_files import CorruptFileError
from pipeline.training.records import Record

floats = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)


@st.composite
def some_records(draw: st.DrawFn) -> list[Record]:
    records = []
    for step in range(draw(st.integers(0, 4))):
        layers = tuple(range(1, draw(st.integers(0, 3)) + 1))
        bins = draw(st.none() | st.just((-3, 0, 7)))
        shape = (len(layers) or 1, 2) + ((3,) if bins else ())
        values = np.array(draw(st.lists(floats, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
        records.append(
            Record(
                step,
                draw(st.text("aZ_/.é∂0", max_size=9)),
                layers,
                values.reshape(shape),
                draw(st.booleans()),
                bins,
                True,
            )
        )
    return records


@given(some_records())
def test_unpacked_records_equal_the_packed_ones(records: list[Record]) -> None:
    values, about = array_files.pack(records)
    again = array_files.unpack(values, about)
    about_each = [[(r.step, r.probe, r.layers, r.geometric, r.bins, r.sparse) for r in rs] for rs in (again, records)]
    assert about_each[0] == about_each[1]
    for a, b in zip(again, records, strict=True):
        assert a.values.tobytes() == b.values.tobytes()
        assert a.values.shape == b.values.shape


def test_truncated_file_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    array_files.write(path, {"theta": np.arange(5.0)}, {"step": 3})
    arrays, about = array_files.read(path)
    assert about == {"step": 3}
    np.testing.assert_array_equal(arrays["theta"], np.arange(5.0))
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(CorruptFileError):
            array_files.read(path)
    with pytest.raises(CorruptFileError):
        array_files.read(tmp_path / "absent.npz")


def test_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    array_files.write(path, {"theta": np.arange(50.0)}, {})
    whole = bytearray(path.read_bytes())
    at = whole.index(np.float64(7).tobytes())
    whole[at + 7] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CorruptFileError):
        array_files.read(path)


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    array_files.write(path, {}, "old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        array_files.write(path, {}, "new")
    assert array_files.read(path)[1] == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, about=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CorruptFileError):
        array_files.read(path)
