"""The hash chain: it holds what it says, a stack's are those of the runs alone, and no change goes unseen."""

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
from pipeline.reproducibility import hash_chain as chains
from pipeline.reproducibility.chain_reader import LoggedChain, first_chain_difference, format_ranges
from pipeline.reproducibility.hash_chain import HEAD_TAG, LINK, NORMS_TAG, HashChain
from pipeline.training.loop import Callbacks, TrajectoryObserver, train
from pipeline.training.prepare import PreparedRun, prepare_run
from pipeline.training.trainer import TrainingState

SMALL = ("architecture.hidden=[4,3]", "data=iris", "epochs=1", "batching.size=20", "probes=none")
KINDS = {
    "rows shared": SMALL,
    "rows of their own": (*SMALL, "data.standardise=true", "data.subset=60"),
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


def made(run: PreparedRun, observer: TrajectoryObserver | None = None, every: int = 2) -> HashChain:
    """The chain of a whole run, seen through ``observer`` if there is one."""
    chain = HashChain(run, Every(every))
    if isinstance(observer, Meddler):
        observer.chain = chain
    for _ in train(run, Callbacks(observer=observer or chain)):
        pass
    return chain


def trail(chain: HashChain) -> LoggedChain:
    return LoggedChain.of(chain.table())


@settings(max_examples=examples(6), deadline=None)
@given(seed=st.integers(0, 2**32), replicates=st.integers(2, 4), kind=st.sampled_from(sorted(KINDS)))
def test_a_stack_has_the_links_of_its_members_alone(seed: int, replicates: int, kind: str) -> None:
    stack = trail(made(prepared(*KINDS[kind], f"seed={seed}", f"replicates={replicates}")))
    for k in range(replicates):
        alone = trail(made(prepared(*KINDS[kind], f"seed={seed + k}")))
        assert alone.links[:, 0].tolist() == stack.links[:, k].tolist()
        assert alone.norms[:, 0].tobytes() == stack.norms[:, k].tobytes()


class Looker:
    """Keeps what is to be seen at each step, layer by layer, as the network shows it."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps
        self.seen: list[tuple[int, list[tuple[int | None, str, Array]]]] = []

    def due(self, step: int) -> bool:
        return step in self.steps

    def on_step(self, step: int, network: Network, rows: Array) -> None:
        parts: list[tuple[int | None, str, Array]] = [(None, "rows", rows[0].copy())]
        for layer in network.layers:
            parts += [(layer.number, "W", layer.W[0].copy()), (layer.number, "b", layer.b[0].copy())]
        for layer in reversed(network.layers):
            parts += [(layer.number, "dW", layer.dW[0].copy()), (layer.number, "db", layer.db[0].copy())]
        self.seen.append((step, parts))


def test_digests_norms_and_links_by_hand() -> None:
    """A second implementation from the layers' own arrays; one replicate's rows begin at 0."""
    run = prepared(*SMALL)
    table = made(run).table()
    looker = Looker(sorted(set(table["step"]) - {-1}))
    for _ in train(run, Callbacks(observer=looker)):
        pass
    about = {"chain": 1, "dtype": "<f8", "sizes": [4, 4, 3, 3]}
    link = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=32).digest()
    assert table.loc[table["step"] == -1, "digest"].tolist() == [link.hex()]
    assert looker.seen[0][0] == 0
    assert looker.seen[-1][0] == run.length.last_step
    for step, parts in looker.seen:
        rows = table[table["step"] == step]
        assert rows["quantity"].tolist() == [quantity for _, quantity, _ in parts] + [LINK]
        assert rows["layer"].iloc[1:-1].tolist() == [layer for layer, _, _ in parts[1:]]
        digests = [hashlib.blake2b(x.tobytes(), digest_size=16).digest() for _, _, x in parts]
        link = hashlib.blake2b(link + step.to_bytes(8, "little") + b"".join(digests), digest_size=32).digest()
        assert rows["digest"].tolist() == [d.hex() for d in digests] + [link.hex()]
        np.testing.assert_allclose(rows["norm"].iloc[1:-1], [np.linalg.norm(x) for _, _, x in parts[1:]], rtol=1e-14)
    assert made(run).tags()[HEAD_TAG] == hashlib.blake2b(link, digest_size=32).hexdigest()


class Meddler:
    """Changes one thing just before the chain sees one step, and puts it right again."""

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
def test_one_flipped_bit_changes_this_link_and_all_later_ones(step: int, quantity: str, entry: int, bit: int) -> None:
    run = prepared(*SMALL)
    plain, meddled = trail(made(run)), trail(made(run, Meddler(step, quantity, entry, bit)))
    at = plain.steps.index(step)
    same = plain.links[:, 0] == meddled.links[:, 0]
    assert same[: at + 1].all()
    assert not same[at + 1 :].any()
    found = first_chain_difference(plain, meddled, [(0, 0)])
    assert found is not None
    layer = 1 if entry < 16 else 2  # of 4·4 weights in layer 1
    name = {"rows": (None, "rows"), "theta": (layer, "W"), "grad": (layer, "dW")}[quantity]
    assert (found.step, found.name, found.names) == (step, name, (name,))
    assert found.last_alike == (None if step == 0 else plain.steps[at - 1])


def test_the_first_and_the_last_step_are_witnessed_whatever_the_schedule() -> None:
    run = prepared(*SMALL)
    chain = HashChain(run, At([3]))
    for _ in train(run, Callbacks(observer=chain)):
        pass
    assert trail(chain).steps == (0, 3, run.length.last_step)
    only = HashChain(run, At([3]), ends=False)
    for _ in train(run, Callbacks(observer=only)):
        pass
    assert trail(only).steps == (3,)


class Keep:
    """Keeps all states of training, with the chain's own as a file would have them."""

    def __init__(self, chain: HashChain) -> None:
        self.chain = chain
        self.states: list[tuple[TrainingState, str]] = []

    def due(self, step: int) -> bool:
        return True

    def save(self, state: TrainingState) -> None:
        self.states.append((state, json.dumps(self.chain.state(), allow_nan=False)))


@pytest.mark.parametrize("kind", ["rows of their own", "diverging"])
def test_a_chain_gone_on_with_is_the_chain_that_never_stopped(kind: str) -> None:
    run = prepared(*KINDS[kind], "replicates=2")
    whole = HashChain(run, Every(2))
    keep = Keep(whole)
    for _ in train(run, Callbacks(observer=whole, checkpointer=keep)):
        pass
    for state, text in keep.states:
        again = HashChain(run, Every(2), start=state.now.step, state=json.loads(text))
        for _ in train(run, Callbacks(observer=again), start=state):
            pass
        assert again.tags() == whole.tags()
        pd.testing.assert_frame_equal(again.table(), whole.table(), check_exact=True)


def test_a_state_of_other_layers_is_refused() -> None:
    state = made(prepared(*SMALL)).state()
    with pytest.raises(ValueError, match="other layers"):
        HashChain(prepared(*SMALL, "architecture.hidden=[5]"), Every(2), state=state)
    with pytest.raises(ValueError, match="other layers"):
        HashChain(prepared(*SMALL, "dtype=float32"), Every(2), state=state)


def test_any_nan_is_as_good_as_any_other() -> None:
    one, other = np.array([1.0, np.nan]), np.array([1.0, -np.nan])
    assert one.tobytes() != other.tobytes()
    assert chains._one_nan(one).tobytes() == chains._one_nan(other).tobytes()
    assert chains.digest_of_norms(one) == chains.digest_of_norms(other)
    assert chains._one_nan(one.astype(np.float32)).dtype == np.float32


@pytest.fixture(scope="module")
def logged() -> tuple[pd.DataFrame, dict[str, str]]:
    chain = made(prepared(*SMALL, "replicates=2"))
    return chain.table(), chain.tags()


def test_a_table_kept_in_parquet_is_whole(logged: tuple[pd.DataFrame, dict[str, str]], tmp_path: Any) -> None:
    table, tags = logged
    table.to_parquet(tmp_path / "chain.parquet", index=False)
    back = LoggedChain.of(pd.read_parquet(tmp_path / "chain.parquet"))
    assert list(back.integrity_errors(tags)) == []
    assert back.links.tolist() == LoggedChain.of(table).links.tolist()


def swap(table: pd.DataFrame, one: int, other: int) -> pd.DataFrame:
    order = np.arange(len(table))
    order[[one, other]] = other, one
    return table.iloc[order].reset_index(drop=True)


def forged(table: pd.DataFrame) -> pd.DataFrame:
    """A digest changed, and all links made to follow from it."""
    table = table.copy()
    table.loc[5, "digest"] = "00" * 16
    links = {k: bytes.fromhex(d) for k, d in enumerate(table.loc[table["step"] == -1, "digest"])}
    for _, rows in table[table["step"] >= 0].groupby(["step", "replicate"]):
        step, replicate = int(rows["step"].iloc[0]), int(rows["replicate"].iloc[0])
        digests = b"".join(bytes.fromhex(d) for d in rows["digest"].iloc[:-1])
        links[replicate] = chains.linked(links[replicate], step, digests)
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
def test_tampering_is_told(logged: tuple[pd.DataFrame, dict[str, str]], how: str) -> None:
    change, says = TAMPERED[how]
    table, tags = logged
    try:
        told = " ".join(LoggedChain.of(change(table)).integrity_errors(tags))
    except ConfigError as broken:
        told = str(broken)
    assert says in told


def test_what_is_hashed_is_little_beside_what_a_step_reads_and_writes() -> None:
    """θ and ∇C once a witnessed step, against W read twice, ∂C/∂W written and the update added in every step."""
    node = compose_run(["epochs=227"])
    chosen = chain_config(node)
    assert isinstance(chosen, ChainConfig)
    run = prepare_run(config("epochs=227"))
    assert 9_900 < run.length.last_step < 10_100
    witnessed = len(chosen.schedule.steps(run.length))
    assert 2 * witnessed / (4 * run.length.last_step) < 0.001


def test_a_config_older_than_chains_has_none() -> None:
    node = compose_run([])
    del node["chain"]
    assert chain_config(node) is None


def test_spans() -> None:
    assert format_ranges([3]) == "layer 3"
    assert format_ranges([1, 2, 3, 7, 9, 10]) == "layers 1-3, 7, 9-10"
