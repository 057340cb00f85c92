"""The hash chain has the documented content, equals that of runs alone, and every change is detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.configs import config
from support.examples import examples

from engine.arrays import Array
from engine.network import Network
from pipeline.config.compose import compose_run
from pipeline.config.schedules import At, Every
from pipeline.config.schema import ChainConfig, chain_config
from pipeline.errors import ConfigError
from pipeline.reproducibility.chain_reader import LoggedChain, first_chain_difference, format_ranges
from pipeline.reproducibility.hash_chain import (
    HEAD_TAG,
    LINK,
    NORMS_TAG,
    HashChain,
    canonical_nan,
    next_link,
    norms_digest,
)
from pipeline.training.loop import Callbacks, TrajectoryObserver, train
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.trainer import TrainingState

pytestmark = pytest.mark.xdist_group("hash_chain")

SMALL = ("architecture.hidden=[4,3]", "data=iris", "epochs=1", "batching.size=20", "probes=none")
KINDS = {
    "rows shared": SMALL,
    "rows of their own": (*SMALL, "data.standardise=true", "data.subset=60"),
    "validation": (*SMALL, "data.validation_fraction=0.2", "data.subset=60"),
    "data of their own": (
        "data=gaussian_noise", "data.source.examples=60", "data.source.inputs=3", "architecture.hidden=[5]",
        "epochs=1", "probes=none", "dtype=float32",
    ),
    "diverging": (
        *SMALL, "activation=relu", "init=gaussian", "init.weights.std=1e60", "optimizer.learning_rate=1e80",
        "divergence.stop=false",
    ),
}  # fmt: skip


def prepared(*overrides: str) -> PreparedRun:
    return prepare_run(config(*overrides))


def chain_of(run: PreparedRun, observer: TrajectoryObserver | None = None, every: int = 2) -> HashChain:
    """Train a run and return its chain; ``observer`` may stand between the two."""
    chain = HashChain(run, Every(every))
    if isinstance(observer, BitFlipper):
        observer.chain = chain
    for _ in train(run, Callbacks(observer=observer or chain)):
        pass
    return chain


def logged_chain(chain: HashChain) -> LoggedChain:
    return LoggedChain.from_table(chain.table())


@settings(max_examples=examples(6), deadline=None)
@given(seed=st.integers(0, 2**32), replicates=st.integers(2, 4), kind=st.sampled_from(sorted(KINDS)))
@pytest.mark.thorough
def test_stack_has_same_links_as_members_alone(seed: int, replicates: int, kind: str) -> None:
    stack = logged_chain(chain_of(prepared(*KINDS[kind], f"seed={seed}", f"replicates={replicates}")))
    for k in range(replicates):
        alone = logged_chain(chain_of(prepared(*KINDS[kind], f"seed={seed + k}")))
        assert alone.links[:, 0].tolist() == stack.links[:, k].tolist()
        assert alone.norms[:, 0].tobytes() == stack.norms[:, k].tobytes()


class ArrayRecorder:
    """Copies the arrays of each layer at each step."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps
        self.steps_and_arrays: list[tuple[int, list[tuple[int | None, str, Array]]]] = []

    def due(self, step: int) -> bool:
        return step in self.steps

    def on_step(self, step: int, network: Network, rows: Array) -> None:
        parts: list[tuple[int | None, str, Array]] = [(None, "rows", rows[0].copy())]
        for layer in network.layers:
            parts += [(layer.number, "W", layer.W[0].copy()), (layer.number, "b", layer.b[0].copy())]
        for layer in reversed(network.layers):
            parts += [(layer.number, "dW", layer.dW[0].copy()), (layer.number, "db", layer.db[0].copy())]
        self.steps_and_arrays.append((step, parts))


def test_digests_norms_and_links_match_second_implementation() -> None:
    """Computed from the layers' own arrays; the rows of one replicate start at 0."""
    run = prepared(*SMALL)
    table = chain_of(run).table()
    recorder = ArrayRecorder(sorted(set(table["step"]) - {-1}))
    for _ in train(run, Callbacks(observer=recorder)):
        pass
    about = {"chain": 1, "dtype": "<f8", "sizes": [4, 4, 3, 3]}
    link = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=32).digest()
    assert table.loc[table["step"] == -1, "digest"].tolist() == [link.hex()]
    assert recorder.steps_and_arrays[0][0] == 0
    assert recorder.steps_and_arrays[-1][0] == run.length.last_step
    for step, parts in recorder.steps_and_arrays:
        rows = table[table["step"] == step]
        assert rows["quantity"].tolist() == [quantity for _, quantity, _ in parts] + [LINK]
        assert rows["layer"].iloc[1:-1].tolist() == [layer for layer, _, _ in parts[1:]]
        digests = [hashlib.blake2b(x.tobytes(), digest_size=16).digest() for _, _, x in parts]
        link = hashlib.blake2b(link + step.to_bytes(8, "little") + b"".join(digests), digest_size=32).digest()
        assert rows["digest"].tolist() == [d.hex() for d in digests] + [link.hex()]
        np.testing.assert_allclose(rows["norm"].iloc[1:-1], [np.linalg.norm(x) for _, _, x in parts[1:]], rtol=1e-14)
    assert chain_of(run).tags()[HEAD_TAG] == hashlib.blake2b(link, digest_size=32).hexdigest()


class BitFlipper:
    """Flips one bit before the chain hashes one step, and restores it."""

    chain: HashChain

    def __init__(self, step: int, quantity: str, entry: int, bit: int) -> None:
        self.step, self.quantity, self.entry, self.bit = step, quantity, entry, bit

    def due(self, step: int) -> bool:
        return self.chain.due(step)

    def on_step(self, step: int, network: Network, rows: Array) -> None:
        target = {"rows": rows, "theta": network.theta, "grad": network.grad}[self.quantity]
        flip = np.int64(np.uint64(1 << self.bit).view(np.int64)) if step == self.step else np.int64(0)
        flat = target.reshape(-1).view(np.int64)
        flat[self.entry] ^= flip
        self.chain.on_step(step, network, rows)
        flat[self.entry] ^= flip


@settings(max_examples=examples(15), deadline=None)
@given(
    step=st.sampled_from([0, 2, 4]),
    quantity=st.sampled_from(["rows", "theta", "grad"]),
    entry=st.integers(0, 19),
    bit=st.integers(0, 62),
)
def test_flipped_bit_changes_this_link_and_all_later_links(step: int, quantity: str, entry: int, bit: int) -> None:
    run = prepared(*SMALL)
    plain, flipped = logged_chain(chain_of(run)), logged_chain(chain_of(run, BitFlipper(step, quantity, entry, bit)))
    at = plain.steps.index(step)
    same = plain.links[:, 0] == flipped.links[:, 0]
    assert same[: at + 1].all()
    assert not same[at + 1 :].any()
    difference = first_chain_difference(plain, flipped, [(0, 0)])
    assert difference is not None
    layer = 1 if entry < 16 else 2  # of 4·4 weights in layer 1
    name = {"rows": (None, "rows"), "theta": (layer, "W"), "grad": (layer, "dW")}[quantity]
    assert (difference.step, difference.name, difference.names) == (step, name, (name,))
    assert difference.last_equal_step == (None if step == 0 else plain.steps[at - 1])


def test_first_and_last_step_are_hashed_with_any_schedule() -> None:
    run = prepared(*SMALL)
    chain = HashChain(run, At([3]))
    for _ in train(run, Callbacks(observer=chain)):
        pass
    assert logged_chain(chain).steps == (0, 3, run.length.last_step)
    only = HashChain(run, At([3]), ends=False)
    for _ in train(run, Callbacks(observer=only)):
        pass
    assert logged_chain(only).steps == (3,)


class StateRecorder:
    """Keeps every training state, and the chain's state as JSON."""

    def __init__(self, chain: HashChain) -> None:
        self.chain = chain
        self.states: list[tuple[TrainingState, str]] = []

    def due(self, step: int) -> bool:
        return True

    def save(self, state: TrainingState) -> None:
        self.states.append((state, json.dumps(self.chain.state(), allow_nan=False)))


@pytest.mark.parametrize("kind", ["rows of their own", "diverging"])
def test_resumed_chain_equals_uninterrupted_chain(kind: str) -> None:
    run = prepared(*KINDS[kind], "replicates=2")
    whole = HashChain(run, Every(2))
    recorder = StateRecorder(whole)
    for _ in train(run, Callbacks(observer=whole, checkpointer=recorder)):
        pass
    for state, text in recorder.states:
        resumed = HashChain(run, Every(2), start=state.now.step, state=json.loads(text))
        for _ in train(run, Callbacks(observer=resumed), start=state):
            pass
        assert resumed.tags() == whole.tags()
        pd.testing.assert_frame_equal(resumed.table(), whole.table(), check_exact=True)


def test_state_of_other_layers_is_refused() -> None:
    state = chain_of(prepared(*SMALL)).state()
    with pytest.raises(ValueError, match="other layers"):
        HashChain(prepared(*SMALL, "architecture.hidden=[5]"), Every(2), state=state)
    with pytest.raises(ValueError, match="other layers"):
        HashChain(prepared(*SMALL, "dtype=float32"), Every(2), state=state)


def test_all_nans_have_same_digest() -> None:
    positive, negative = np.array([1.0, np.nan]), np.array([1.0, -np.nan])
    assert positive.tobytes() != negative.tobytes()
    assert canonical_nan(positive).tobytes() == canonical_nan(negative).tobytes()
    assert norms_digest(positive) == norms_digest(negative)
    assert canonical_nan(positive.astype(np.float32)).dtype == np.float32


@pytest.fixture(scope="module")
def logged() -> tuple[pd.DataFrame, dict[str, str]]:
    chain = chain_of(prepared(*SMALL, "replicates=2"))
    return chain.table(), chain.tags()


def test_chain_table_survives_parquet(logged: tuple[pd.DataFrame, dict[str, str]], tmp_path: Any) -> None:
    table, tags = logged
    table.to_parquet(tmp_path / "chain.parquet", index=False)
    restored = LoggedChain.from_table(pd.read_parquet(tmp_path / "chain.parquet"))
    assert list(restored.integrity_errors(tags)) == []
    assert restored.links.tolist() == LoggedChain.from_table(table).links.tolist()


def swap(table: pd.DataFrame, first: int, second: int) -> pd.DataFrame:
    order = np.arange(len(table))
    order[[first, second]] = second, first
    return table.iloc[order].reset_index(drop=True)


def forged(table: pd.DataFrame) -> pd.DataFrame:
    """Change a digest and recompute all links."""
    table = table.copy()
    table.loc[5, "digest"] = "00" * 16
    links = {k: bytes.fromhex(d) for k, d in enumerate(table.loc[table["step"] == -1, "digest"])}
    for _, rows in table[table["step"] >= 0].groupby(["step", "replicate"]):
        step, replicate = int(rows["step"].iloc[0]), int(rows["replicate"].iloc[0])
        digests = b"".join(bytes.fromhex(d) for d in rows["digest"].iloc[:-1])
        links[replicate] = next_link(links[replicate], step, digests)
        table.loc[rows.index[-1], "digest"] = links[replicate].hex()
    return table


TAMPERED: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a digest": (lambda t: t.assign(digest=["ff" * 16 if i == 7 else d for i, d in enumerate(t["digest"])]), "link of"),
    "no digest": (lambda t: t.assign(digest=["zz" if i == 7 else d for i, d in enumerate(t["digest"])]), "link of"),
    "a norm": (lambda t: t.assign(norm=t["norm"] * np.float64(1 + 2e-16)), NORMS_TAG),
    "a link": (lambda t: t.assign(digest=["ee" * 32 if i == 15 else d for i, d in enumerate(t["digest"])]), "link of"),
    "two rows": (lambda t: swap(t, 4, 5), "rows are missing"),
    "two digests": (lambda t: t.assign(digest=swap(t, 4, 5)["digest"]), "link of"),
    "a row": (lambda t: t.drop(index=9), "rows are missing"),
    "a row twice": (lambda t: pd.concat([t, t.iloc[-1:]]), "rows are missing"),
    "the end": (lambda t: t[t["step"] < 4], "head"),
    "everything": (lambda t: t.iloc[:0], "rows are missing"),
    "the genesis": (lambda t: t[t["step"] >= 0], "rows are missing"),
    "a column": (lambda t: t.drop(columns="norm"), "columns"),
    "the kind of a column": (lambda t: t.assign(step=["a"] * len(t)), "rows are missing"),
    "forged": (forged, "head"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_tampering_is_reported(logged: tuple[pd.DataFrame, dict[str, str]], how: str) -> None:
    change, says = TAMPERED[how]
    table, tags = logged
    try:
        message = " ".join(LoggedChain.from_table(change(table)).integrity_errors(tags))
    except ConfigError as error:
        message = str(error)
    assert says in message


def test_hashed_bytes_are_few_compared_with_bytes_of_a_step() -> None:
    """θ and ∇C once per hashed step; W read twice, ∂C/∂W written and the update added in every step."""
    settings_of_chain = chain_config(compose_run(["epochs=227"]))
    assert isinstance(settings_of_chain, ChainConfig)
    run = prepare_run(config("epochs=227"))
    assert 9_900 < run.length.last_step < 10_100
    hashed = len(settings_of_chain.schedule.steps(run.length))
    assert 2 * hashed / (4 * run.length.last_step) < 0.001


def test_config_without_chain_section_has_no_chain() -> None:
    raw_config = compose_run([])
    del raw_config["chain"]
    assert chain_config(raw_config) is None


def test_format_ranges() -> None:
    assert format_ranges([3]) == "layer 3"
    assert format_ranges([1, 2, 3, 7, 9, 10]) == "layers 1-3, 7, 9-10"
