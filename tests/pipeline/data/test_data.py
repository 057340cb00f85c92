"""Data: readers, splits, scaling, digests, and the rows of each replicate."""

from __future__ import annotations

import gzip
import hashlib
import math
import statistics
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configs import csv_source, prepared
from support.idx_files import idx, write_idx

from engine.activations import Activation, Relu, Tanh
from pipeline.data.files import Csv, Parquet
from pipeline.data.idx import Idx
from pipeline.data.prepare import DataConfig, prepare
from pipeline.data.scikit_learn import ScikitLearn
from pipeline.data.synthetic import GaussianNoise, Point, Teacher, TwoSpirals
from pipeline.data.table import Source, Table
from pipeline.training.streams import RandomStreams


@dataclass(frozen=True)
class Rows(Source):
    """Row i is (i, 1000 − i²) with target i, so that every row can be recognised."""

    count: int
    test: int = 0

    def load(self, rng: np.random.Generator) -> Table:
        i = np.arange(self.count, dtype=np.float64)
        return Table(np.stack([i, 1000 - i**2], axis=1), i[:, None].copy(), classes=None, test=self.test)


def fresh(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# IDX


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_read_pixel_by_pixel(tmp_path: Path, zipped: bool) -> None:
    written = write_idx(tmp_path, fresh(), train=12, test=5, zipped=zipped)
    table = Idx(str(tmp_path), "").load(fresh())
    images = [*written["train-images-idx3-ubyte"], *written["t10k-images-idx3-ubyte"]]
    assert table.x.dtype == np.float64
    assert table.x.tolist() == [[p / 255 for p in image.ravel().tolist()] for image in images]
    labels = [*written["train-labels-idx1-ubyte"].tolist(), *written["t10k-labels-idx1-ubyte"].tolist()]
    assert table.y.tolist() == labels
    assert (table.classes, table.test) == (5, 5)


def test_idx_folder_keeps_its_training_and_test_set(tmp_path: Path) -> None:
    write_idx(tmp_path, fresh(), train=12, test=5)
    data = prepared(Idx(str(tmp_path), ""), test_fraction=None)
    assert data.train.tolist() == [list(range(12))]
    assert data.test.tolist() == [list(range(12, 17))]


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
small = np.arange(12 * 9, dtype=np.uint8).reshape(12, 3, 3)
CORRUPTIONS = {
    "truncated": (IMAGES, idx(small)[:-1], "should hold (12, 3, 3) bytes, has 107"),
    "too long": (IMAGES, idx(small) + b"\0", "should hold (12, 3, 3) bytes, has 109"),
    "header only": (IMAGES, idx(small)[:9], "is not an IDX file of unsigned bytes with 3 axes"),
    "empty": (IMAGES, b"", "is not an IDX file"),
    "text": (LABELS, b"a,b\n1,2\n" * 9, "is not an IDX file of unsigned bytes with 1 axes"),
    "other type": (IMAGES, idx(small, kind=13), "is not an IDX file of unsigned bytes"),
    "other axes": (LABELS, idx(small), "is not an IDX file of unsigned bytes with 1 axes"),
    "negative axis": (LABELS, idx(small[:, 0, 0])[:4] + b"\xff\xff\xff\xff", "should hold"),
    "huge axes": (IMAGES, idx(small)[:4] + b"\x7f\xff\xff\xff" * 3 + b"\0" * 9, "should hold"),
    "fewer labels": (LABELS, idx(small[:7, 0, 0]), "12 images but 7 labels"),
    "other image size": (IMAGES, idx(small[:, :2]), "training and test images differ in size"),
    "no images": (IMAGES, idx(small[:0]), "0 images but 12 labels"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "content", "message"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_corrupt_idx_file_is_named_in_the_error(
    tmp_path: Path, name: str, content: bytes, message: str, zipped: bool
) -> None:
    write_idx(tmp_path, fresh(), train=12, test=5, zipped=zipped)
    (tmp_path / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=r"^folder=") as error:
        Idx(str(tmp_path), "").load(fresh())
    assert message in str(error.value)


def test_damaged_gzip_file_is_named_in_the_error(tmp_path: Path) -> None:
    write_idx(tmp_path, fresh(), train=12, test=5)
    path = tmp_path / f"{IMAGES}.gz"
    whole = path.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        b"no gzip",
        whole[:-5] + b"\0" * 5,
        whole[:10] + b"\xff" * 20 + whole[30:],
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"^folder=.*cannot read {IMAGES}.gz"):
            Idx(str(tmp_path), "").load(fresh())


def test_missing_idx_files_are_reported_with_the_hint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no train-images-idx3-ubyte\[.gz\] there; buy them"):
        Idx(str(tmp_path), "buy them").load(fresh())


# Tables of a user

Kind = Literal["csv", "parquet"]


def file_source(folder: Path, frame: pd.DataFrame, kind: Kind, **arguments: Any) -> Csv | Parquet:
    path = folder / f"table.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    if kind == "csv":
        return csv_source(path, **arguments)
    chosen = {"task": "classification", "categorical": "refuse", "missing": "refuse"} | arguments
    return Parquet(path=str(path), **chosen)


kinds = pytest.mark.parametrize("kind", ["csv", "parquet"])


@kinds
def test_classes_are_numbered_in_sorted_order(tmp_path: Path, kind: Kind) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 4], "y": ["wasp", "bee", "wasp", "ant"], "b": [0.5, -1.5, 2.5, 1e-3]})
    table = file_source(tmp_path, frame, kind, target="y").load(fresh())
    assert table.x.tolist() == [[1, 0.5], [2, -1.5], [3, 2.5], [4, 1e-3]]
    assert table.y.tolist() == [2, 1, 2, 0]
    assert (table.classes, table.test) == (3, 0)


@kinds
def test_regression_targets_stay_numbers(tmp_path: Path, kind: Kind) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "y": [0.25, -7.5, 1e9]})
    table = file_source(tmp_path, frame, kind, target="y", task="regression").load(fresh())
    assert table.classes is None
    assert table.y.tolist() == [[0.25], [-7.5], [1e9]]


@kinds
def test_categorical_columns_are_one_hot_or_refused(tmp_path: Path, kind: Kind) -> None:
    frame = pd.DataFrame({"colour": ["red", "blue", "red"], "a": [1.0, 2.0, 3.0], "y": [0, 1, 0]})
    source = file_source(tmp_path, frame, kind, target="y", categorical="one_hot")
    assert source.load(fresh()).x.tolist() == [[1, 0, 1], [2, 1, 0], [3, 0, 1]]  # a, blue, red
    with pytest.raises(ValueError, match="categorical=refuse: column 'colour'"):
        replace(source, categorical="refuse").load(fresh())


@kinds
def test_incomplete_rows_are_dropped_or_refused(tmp_path: Path, kind: Kind) -> None:
    frame = pd.DataFrame({"a": [1.0, math.nan, 3.0, 4.0], "y": ["p", "q", None, "q"]})
    source = file_source(tmp_path, frame, kind, target="y", missing="drop")
    table = source.load(fresh())
    assert (table.x.tolist(), table.y.tolist(), table.classes) == ([[1], [4]], [0, 1], 2)
    with pytest.raises(
        ValueError, match=r"missing=refuse: 2 rows lack values, the first in column 'a', (line 3|row 2) "
    ):
        replace(source, missing="refuse").load(fresh())


def test_csv_and_parquet_give_the_same_digest(tmp_path: Path) -> None:
    rng = fresh()
    frame = pd.DataFrame(rng.standard_normal((30, 4)), columns=list("abcd")).assign(y=rng.integers(3, size=30))
    digests = {file_source(tmp_path, frame, kind, target="y").load(rng).digest() for kind in ("csv", "parquet")}
    assert len(digests) == 1


def test_real_target_is_refused_as_classes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": range(100), "y": fresh().standard_normal(100)})
    with pytest.raises(ValueError, match="target=y: 100 different values in 100 rows are no classes"):
        file_source(tmp_path, frame, "csv", target="y").load(fresh())


# Splitting, subsets, scaling


@given(st.integers(2, 80), st.floats(0.02, 0.98), st.integers(0, 2**32))
def test_split_is_disjoint_and_complete(count: int, fraction: float, seed: int) -> None:
    held_out = round(fraction * count)
    if not 0 < held_out < count:
        with pytest.raises(ValueError, match=r"test_fraction=.*: leaves one of the sets"):
            prepared(Rows(count), seed, test_fraction=fraction)
        return
    data = prepared(Rows(count), seed, test_fraction=fraction)
    train, test = data.x[data.train[0], 0], data.x[data.test[0], 0]
    assert sorted([*train, *test]) == list(range(count))
    assert len(test) == held_out
    np.testing.assert_array_equal(data.y[data.train[0], 0], train)


def test_split_follows_from_the_seed() -> None:
    a, again, different = (prepared(Rows(100), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.train, again.train)
    np.testing.assert_array_equal(a.test, again.test)
    assert set(a.test[0].tolist()) != set(different.test[0].tolist())


@given(st.integers(3, 80), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_validation_rows_are_training_rows_of_the_run_without_them(count: int, fraction: float, seed: int) -> None:
    without = prepared(Rows(count), seed, test_fraction=0.3)
    rows = without.train.shape[1]
    held_out = round(fraction * rows)
    if not 0 < held_out < rows:
        with pytest.raises(ValueError, match=rf"^validation_fraction=.*: leaves one of the sets of {rows} rows empty$"):
            prepared(Rows(count), seed, test_fraction=0.3, validation_fraction=fraction)
        return
    data = prepared(Rows(count), seed, test_fraction=0.3, validation_fraction=fraction)
    np.testing.assert_array_equal(data.test, without.test)
    assert data.validation.shape == (1, held_out)
    assert sorted([*data.train[0], *data.validation[0]]) == sorted(without.train[0])
    assert data.description is not None
    assert data.description.as_json()["validation_examples"] == held_out


def test_validation_rows_follow_from_the_seed_of_the_replicate() -> None:
    data = prepared(Rows(100), 3, replicates=2, validation_fraction=0.2)
    again = prepared(Rows(100), 4, validation_fraction=0.2)
    first, second = (data.x[rows, 0].tolist() for rows in data.validation)
    assert second == again.x[again.validation[0], 0].tolist()
    assert set(first) != set(second)


@given(st.integers(2, 60), st.integers(0, 1000))
def test_split_without_validation_is_drawn_as_before_there_was_one(count: int, seed: int) -> None:
    """One permutation for the test set, one for the subset; the order of the training rows matters, too."""
    data = prepared(Rows(count), seed, test_fraction=0.4, subset=1)
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[0])
    order = rng.permutation(count)
    held_out = round(0.4 * count)
    assert data.x[data.test[0], 0].tolist() == order[:held_out].tolist()
    assert data.x[data.train[0], 0].tolist() == rng.permutation(order[held_out:])[:1].tolist()
    assert data.validation.shape == (1, 0)
    whole = prepared(Rows(count), seed, test_fraction=0.4)
    assert whole.train[0].tolist() == order[held_out:].tolist()


def test_validation_set_stays_whole_beside_a_subset() -> None:
    whole, part = (prepared(Rows(80), 5, subset=s, validation_fraction=0.3) for s in (None, 10))
    np.testing.assert_array_equal(part.x[part.validation[0]], whole.x[whole.validation[0]])
    np.testing.assert_array_equal(part.x[part.test[0]], whole.x[whole.test[0]])
    assert set(part.x[part.train[0], 0]) < set(whole.x[whole.train[0], 0])
    assert part.train.shape == (1, 10)
    with pytest.raises(ValueError, match=r"^subset=43: there are only 42 training rows$"):
        prepared(Rows(80), 5, subset=43, validation_fraction=0.3)


def test_replicates_with_equal_training_rows_keep_their_own_other_sets() -> None:
    """With 4 rows and a subset of 1, two replicates often train on the same row and test on different ones."""
    stack = prepared(Rows(4), replicates=40, subset=1, validation_fraction=0.3)
    for k in range(40):
        alone = prepared(Rows(4), k, subset=1, validation_fraction=0.3)
        for part in ("train", "validation", "test"):
            rows, own = getattr(stack, part)[k], getattr(alone, part)[0]
            assert stack.x[rows, 0].tolist() == alone.x[own, 0].tolist()


@given(st.integers(1, 60), st.integers(0, 1000))
def test_subset_contains_training_rows_only(subset: int, seed: int) -> None:
    whole, part = (prepared(Rows(80), seed, subset=s) for s in (None, subset))
    rows = part.x[part.train[0], 0]
    assert len(rows) == len(set(rows)) == subset
    assert set(rows) <= set(whole.x[whole.train[0], 0])
    np.testing.assert_array_equal(part.x[part.test[0]], whole.x[whole.test[0]])
    np.testing.assert_array_equal(part.y[part.train[0], 0], rows)


def test_subset_is_random_for_a_source_with_its_own_test_set() -> None:
    chosen = [prepared(Rows(50, test=10), seed, test_fraction=None, subset=5) for seed in range(30)]
    assert {int(v) for data in chosen for v in data.x[data.train[0], 0]} > set(range(35))
    assert all(data.x[data.test[0], 0].tolist() == list(range(40, 50)) for data in chosen)


@pytest.mark.parametrize("subset", [None, 7])
def test_scaling_is_fitted_on_the_training_rows(subset: int | None) -> None:
    raw, scaled = (prepared(Rows(20), subset=subset, standardise=s, validation_fraction=0.3) for s in (False, True))
    for before, after in ((raw.x, scaled.x), (raw.y, scaled.y)):
        for column in range(before.shape[1]):
            training = before[raw.train[0], column].tolist()
            mean, std = statistics.fmean(training), statistics.pstdev(training)
            for rows in (raw.train[0], raw.validation[0], raw.test[0]):
                expected = [(v - mean) / std for v in before[rows, column].tolist()]
                np.testing.assert_allclose(after[rows, column], expected, rtol=1e-12, atol=1e-13)


def test_standardised_constant_column_is_zero_and_classes_stay_one_hot() -> None:
    @dataclass(frozen=True)
    class Flat(Source):
        def load(self, rng: np.random.Generator) -> Table:
            return Table(np.full((12, 1), 0.1), np.arange(12) % 3, classes=3)

    data = prepared(Flat(), standardise=True)
    np.testing.assert_allclose(data.x, 0, atol=1e-15)
    assert data.y.tolist() == [[float(i % 3 == k) for k in range(3)] for i in range(12)]


# Digests


def test_digest_of_known_data_equals_the_documented_hash() -> None:
    table = Table(np.array([[0.5, -1.0], [2.0, 1e-300]]), np.array([1, 0]), classes=2)
    by_hand = hashlib.sha256(b"classes=2 test=0")
    by_hand.update(b"<f8(2, 2)" + bytes.fromhex("000000000000e03f000000000000f0bf000000000000004059f3f8c21f6ea501"))
    by_hand.update(b"<i8(2,)" + bytes.fromhex("01000000000000000000000000000000"))
    assert table.digest() == by_hand.hexdigest()


def test_digest_depends_on_every_bit_and_not_on_memory_layout() -> None:
    table = ScikitLearn("iris").load(fresh())
    assert table.digest() == ScikitLearn("iris").load(fresh(1)).digest()
    assert replace(table, x=table.x.astype(">f8")).digest() == table.digest()
    assert replace(table, x=np.asfortranarray(table.x)).digest() == table.digest()
    x, y = table.x.copy(), table.y.copy()
    x[17, 2] = np.nextafter(x[17, 2], 9)
    y[[0, 60]] = y[[60, 0]]
    changed = [
        replace(table, x=x),
        replace(table, y=y),
        replace(table, classes=4),
        replace(table, test=1),
        replace(table, x=table.x.reshape(75, 8)),
        replace(table, x=table.x.astype(np.float32)),
    ]
    assert len({t.digest() for t in [table, *changed]}) == 1 + len(changed)


def test_digest_is_independent_of_split_subset_and_scaling() -> None:
    iris = ScikitLearn("iris")
    digests = {
        prepared(iris, seed=0).digest,
        prepared(iris, seed=1, replicates=3).digest,
        prepared(iris, test_fraction=0.5).digest,
        prepared(iris, subset=10, standardise=True).digest,
        iris.load(fresh()).digest(),
    }
    assert len(digests) == 1


def test_digest_of_synthetic_data_follows_from_the_seeds() -> None:
    spirals = TwoSpirals(50, 1.0, 0.1)
    digests = [prepared(spirals, seed, replicates).digest for seed, replicates in ((0, 1), (1, 1), (0, 2), (1, 2))]
    assert len(set(digests)) == 4
    assert prepared(spirals, 1, 2).digest == digests[3]


# Replicates

SOURCES = [
    (Rows(40), None),
    (Rows(40), 9),
    (ScikitLearn("iris"), None),
    (ScikitLearn("diabetes"), 50),
    (TwoSpirals(60, 1.5, 0.1), None),
    (TwoSpirals(60, 1.5, 0.1), 20),
    (GaussianNoise(40, 3, 4, 2.0), None),
    (Teacher(30, 4, 2, (5,), Tanh(), 1.5), None),
]


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("validation", [0.0, 0.2])
@pytest.mark.parametrize(("source", "subset"), SOURCES, ids=str)
def test_replicate_k_has_the_data_of_seed_plus_k(
    source: Source, subset: int | None, validation: float, standardise: bool
) -> None:
    chosen: dict[str, Any] = {"subset": subset, "standardise": standardise, "validation_fraction": validation}
    if subset == 50 and validation:
        chosen["subset"] = 40
    stack = prepared(source, seed=5, replicates=3, **chosen)
    for k in range(3):
        alone = prepared(source, seed=5 + k, **chosen)
        for part in ("train", "validation", "test"):
            rows, own = getattr(stack, part)[k], getattr(alone, part)[0]
            np.testing.assert_array_equal(stack.x[rows].view(np.int64), alone.x[own].view(np.int64))
            np.testing.assert_array_equal(stack.y[rows].view(np.int64), alone.y[own].view(np.int64))


@pytest.mark.parametrize(("source", "subset"), SOURCES, ids=str)
def test_sources_vary_between_replicates_as_declared(source: Source, subset: int | None) -> None:
    a, b = (source.load(rng) for rng in RandomStreams.of(0, 2).data)
    assert np.array_equal(a.x, b.x) is not source.varies


def test_replicates_that_share_rows_share_memory() -> None:
    assert len(prepared(Rows(40, test=10), replicates=4, test_fraction=None).x) == 40


def test_float32_is_a_rounding_of_the_float64_data() -> None:
    chosen = DataConfig(ScikitLearn("diabetes"), 0.2, None, True)
    double, single = (prepare(chosen, RandomStreams.of(0, 1).data, dtype) for dtype in (np.float64, np.float32))
    assert single.x.dtype == single.y.dtype == np.float32
    np.testing.assert_array_equal(double.x.astype(np.float32), single.x)
    np.testing.assert_array_equal(double.train, single.train)


# Synthetic data


@pytest.mark.parametrize("activation", [Tanh(), Relu()])
def test_teacher_targets_are_the_outputs_of_its_network(activation: Activation) -> None:
    """The teacher is recomputed from the same stream, with its forward pass in plain Python."""
    table = Teacher(7, 3, 2, (4, 5), activation, 1.5).load(fresh(11))
    rng, sizes = fresh(11), (3, 4, 5, 2)
    weights = [rng.standard_normal((n, m)) * 1.5 / math.sqrt(m) for m, n in pairwise(sizes)]
    x = rng.standard_normal((7, 3))
    np.testing.assert_array_equal(table.x, x)
    sigma = math.tanh if isinstance(activation, Tanh) else lambda z: max(z, 0.0)
    for row, target in zip(x.tolist(), table.y.tolist(), strict=True):
        a = row
        for number, w in enumerate(weights, start=1):
            z = [sum(wi * ai for wi, ai in zip(line, a, strict=True)) for line in w.tolist()]
            a = z if number == len(weights) else [sigma(v) for v in z]
        assert target == pytest.approx(a, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("turns", [0.5, 2.0, 3.25])
def test_two_spirals_lie_on_two_spirals(turns: float) -> None:
    table = TwoSpirals(400, turns, 0.0).load(fresh())
    radius = np.hypot(*table.x.T)
    assert radius.max() <= 1
    turned = np.arctan2(table.x[:, 1], table.x[:, 0]) - 2 * np.pi * turns * radius
    np.testing.assert_allclose(np.cos(turned), np.where(table.y == 0, 1, -1), atol=1e-9)  # arm 1: half a turn further
    assert np.bincount(table.y).tolist() == [200, 200]
    assert np.mean(radius**2) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 400))  # even over the disc


def test_noise_of_two_spirals_has_the_requested_size() -> None:
    noisy, clean = (TwoSpirals(20_000, 2.0, noise).load(fresh(3)).x for noise in (0.3, 0.0))
    assert (noisy - clean).std() == pytest.approx(0.3, rel=5 / math.sqrt(2 * 40_000))


def test_gaussian_noise_has_the_requested_moments() -> None:
    table = GaussianNoise(20_000, 20, 4, 2.5).load(fresh(7))
    count = table.x.size
    assert abs(table.x.mean()) < 5 * math.sqrt(2.5 / count)
    assert (table.x**2).mean() == pytest.approx(2.5, rel=5 * math.sqrt(2 / count))
    assert (table.x**4).mean() == pytest.approx(3 * 2.5**2, rel=5 * math.sqrt(96 / 9 / count))
    counts = np.bincount(table.y, minlength=4)
    assert np.abs(counts - 5000).max() < 5 * math.sqrt(20_000 * 0.25 * 0.75)
    between = np.corrcoef(table.x.T) - np.eye(20)
    assert np.abs(between).max() < 5 / math.sqrt(20_000)


def test_point_is_its_own_test_set() -> None:
    data = prepared(Point(((1.0, 2.0), (3.0, 4.0)), ((5.0,), (6.0,))), test_fraction=None)
    assert data.x[data.train[0]].tolist() == data.x[data.test[0]].tolist() == [[1, 2], [3, 4]]
    assert data.y[data.train[0]].tolist() == data.y[data.test[0]].tolist() == [[5], [6]]


SHAPES: dict[str, tuple[int, int, int | None]] = {
    "digits": (1797, 64, 10),
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
    "breast_cancer": (569, 30, 2),
    "diabetes": (442, 10, None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_scikit_learn_tables_have_the_documented_shapes(
    name: Literal["digits", "iris", "wine", "breast_cancer", "diabetes"],
) -> None:
    table = ScikitLearn(name).load(fresh())
    assert (*table.x.shape, table.classes) == SHAPES[name]
    if table.classes is not None:
        assert sorted(set(table.y.tolist())) == list(range(table.classes))


def test_digits_equal_those_of_scikit_learn() -> None:
    """They are read without an import of scikit-learn."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    table = ScikitLearn("digits").load(fresh())
    np.testing.assert_array_equal(table.x, x, strict=True)
    np.testing.assert_array_equal(table.y, y.astype(np.int64), strict=True)
