"""A hash chain over a run's trajectory: what a replay is held against, bit for bit.

At scheduled steps, and at the first and the last, each replicate's W, b, ∂C/∂W and ∂C/∂b of every layer and the row
numbers of its batch are hashed; a link is the hash of the link before, the step and these digests. The last link, a
head, so stands for all that was seen. Replicate k of a stack has the very links of the run with seed + k alone. Beside
each digest stands a norm, for a digest says that things differ but not by how much.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine.arrays import Array, norm
from engine.blocks import Block, Parameter, flatten
from engine.network import Dense, Network
from pipeline.config.schedules import FirstAndLast, ProbeScheduler, Schedule, TrainingLength
from pipeline.training.prepare import PreparedRun, blocks_of

CHAIN_FILE = "chain.parquet"
HEAD_TAG, NORMS_TAG = "chain.head", "chain.norms"
CHAIN_COLUMNS = ("step", "replicate", "layer", "quantity", "digest", "norm")
ROWS, LINK = "rows", "link"
BEFORE = -1  # the step of the links that come before the first
DIGEST, LINK_SIZE = 16, 32  # bytes
Name = tuple[int | None, str]


@dataclass(frozen=True)
class ChainLayout:
    """What is hashed at a step, and in which order.

    Args:
        sizes: units of the layers, input first.
        dtype: NumPy's letter code with the byte order, "<f8".
        others: names of the parameters that are not W or b of a layer, in forward order.
    """

    sizes: tuple[int, ...]
    dtype: str
    others: tuple[str, ...] = ()

    def names(self) -> list[Name]:
        """(layer, quantity) in the order in which a step computes: the batch, θ, then ∇C from the top layer down."""
        layers = range(1, len(self.sizes))
        forward: list[Name] = [(layer, quantity) for layer in layers for quantity in ("W", "b")]
        backward: list[Name] = [(layer, quantity) for layer in reversed(layers) for quantity in ("dW", "db")]
        others: list[Name] = [(None, f"{d}{name}") for d in ("", "d") for name in self.others]
        return [(None, ROWS), *forward, *backward, *others]

    def genesis(self) -> bytes:
        """The link before the first: of sizes and type, which the bytes themselves do not tell."""
        facts = {"chain": 1, "dtype": self.dtype, "sizes": list(self.sizes)}
        about = json.dumps(facts | ({"others": list(self.others)} if self.others else {}), sort_keys=True)
        return hashlib.blake2b(about.encode(), digest_size=LINK_SIZE).digest()


def linked(link: bytes, step: int, digests: bytes) -> bytes:
    """The link that follows."""
    return hashlib.blake2b(link + step.to_bytes(8, "little") + digests, digest_size=LINK_SIZE).digest()


def combined_head(heads: Sequence[bytes]) -> str:
    """The head of a run, hexadecimal, from those of its replicates."""
    return hashlib.blake2b(b"".join(heads), digest_size=LINK_SIZE).hexdigest()


def digest_of_norms(norms: Array) -> str:
    """Of all norms in the order of the table, for the links do not cover them."""
    return hashlib.blake2b(_one_nan(norms).astype("<f8").tobytes(), digest_size=DIGEST).hexdigest()


class HashChain:
    """The chain of a run; a :class:`pipeline.training.loop.TrajectoryObserver`.

    Args:
        run: whose trajectory it is.
        schedule: the steps to observer.
        ends: whether to observer the first and the last step in any case.
        start: the first step that it will be asked for.
        state: what :meth:`state` gave at an earlier step, to go on from.

    Raises:
        ValueError: a state that does not fit the run.
    """

    def __init__(
        self,
        run: PreparedRun,
        schedule: Schedule,
        ends: bool = True,
        start: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        others = tuple(name for name, _ in _other_parameters(blocks_of(run)))
        self.layout = ChainLayout(tuple(run.sizes), np.dtype(run.config.dtype).str, others)
        self._replicates = run.config.replicates
        # in a stack, rows of several replicates' data lie one below the other
        self._first = np.minimum(run.data.train.min(axis=1), run.data.test.min(axis=1, initial=len(run.data.x)))
        self._count = len(self.layout.names())
        self._agenda = _agenda(schedule, run.length, ends, start)
        self._steps: list[int] = []
        self._digests: list[Array] = []  # uint8 [R, Q, DIGEST] each
        self._norms: list[Array] = []  # [R, Q]
        self._links = [[self.layout.genesis()] * self._replicates]
        if state is not None:
            self._go_on_from(state)

    def due(self, step: int) -> bool:
        """Whether this step is to be witnessed."""
        return bool(self._agenda.due(step))

    @np.errstate(all="ignore")
    def on_step(self, step: int, network: Network, rows: Array) -> None:
        """Add a link for each replicate."""
        arrays = _arrays(network)
        norms = np.full((self._replicates, self._count), np.nan)
        norms[:, 1:] = np.stack([norm(x, axes=1) for x in arrays], axis=-1)
        digests = np.empty((*norms.shape, DIGEST), dtype=np.uint8)
        for k in range(self._replicates):
            batch = np.ascontiguousarray(rows[k] - self._first[k], dtype="<i8")
            for q, part in enumerate([batch, *(x[k] for x in arrays)]):
                lost = q > 0 and norms[k, q] != norms[k, q]
                digests[k, q] = np.frombuffer(_digest(_one_nan(part) if lost else part), dtype=np.uint8)
        self._add(step, digests, norms)

    def _add(self, step: int, digests: Array, norms: Array) -> None:
        self._steps.append(step)
        self._digests.append(digests)
        self._norms.append(norms)
        before = self._links[-1]
        self._links.append([linked(link, step, d.tobytes()) for link, d in zip(before, digests, strict=True)])

    def state(self) -> dict[str, Any]:
        """All that it holds, as plain data that JSON keeps exactly."""
        return {
            "genesis": self.layout.genesis().hex(),
            "steps": list(self._steps),
            "digests": [d.tobytes().hex() for d in self._digests],
            "norms": [n.astype("<f8").tobytes().hex() for n in self._norms],
        }

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        if state["genesis"] != self.layout.genesis().hex():
            raise ValueError("the chain kept is of other layers or another type")
        shape = (self._replicates, self._count)
        for step, digests, norms in zip(state["steps"], state["digests"], state["norms"], strict=True):
            seen = np.frombuffer(bytes.fromhex(digests), dtype=np.uint8).reshape(*shape, DIGEST)
            self._add(int(step), seen, np.frombuffer(bytes.fromhex(norms), dtype="<f8").reshape(shape))

    @property
    def heads(self) -> list[str]:
        """The last link of each replicate, hexadecimal."""
        return [link.hex() for link in self._links[-1]]

    def tags(self) -> dict[str, str]:
        """What the run says of its chain: its head, and a digest of the norms beside it."""
        norms = np.array(self._norms).ravel()
        return {HEAD_TAG: combined_head(self._links[-1]), NORMS_TAG: digest_of_norms(norms)}

    def table(self) -> pd.DataFrame:
        """One row a digest, in the order of :meth:`ChainLayout.names`; the link of each step follows."""
        names: list[Name] = [*self.layout.names(), (None, LINK)]
        replicates, count = self._replicates, len(names)
        steps = np.repeat(np.array(self._steps, dtype=np.int64), replicates * count)
        digests = [
            text
            for seen, links in zip(self._digests, self._links[1:], strict=True)
            for d, link in zip(seen, links, strict=True)
            for text in (*(x.tobytes().hex() for x in d), link.hex())
        ]
        norms = [np.pad(n, ((0, 0), (0, 1)), constant_values=np.nan).ravel() for n in self._norms]
        layers: list[Any] = [pd.NA if layer is None else layer for layer, _ in names]
        blocks = len(self._steps) * replicates
        columns: dict[str, Any] = {
            "step": np.concatenate([np.full(replicates, BEFORE), steps]),
            "replicate": [*range(replicates), *np.repeat(list(range(replicates)) * len(self._steps), count)],
            "layer": pd.Series([pd.NA] * replicates + layers * blocks, dtype="Int64"),
            "quantity": [LINK] * replicates + [quantity for _, quantity in names] * blocks,
            "digest": [link.hex() for link in self._links[0]] + digests,
            "norm": np.concatenate([np.full(replicates, np.nan), *norms]),
        }
        return pd.DataFrame(columns).astype({"quantity": "str", "digest": "str", "replicate": "int64"})


def _agenda(schedule: Schedule, length: TrainingLength, ends: bool, start: int) -> ProbeScheduler:
    schedules: dict[str, Schedule] = {"chosen": schedule}
    if ends:
        schedules["ends"] = FirstAndLast()
    return ProbeScheduler(schedules, length, start)


def _other_parameters(blocks: Sequence[Block]) -> list[tuple[str, Parameter]]:
    """Parameters that are not W or b of a Dense layer, with their names."""
    numbered = enumerate(flatten(blocks))
    return [
        (f"block_{i}.{p.name}", p) for i, block in numbered if not isinstance(block, Dense) for p in block.parameters
    ]


def _arrays(network: Network) -> list[Array]:
    """The flat parameters and gradients [R, size] in the order of :meth:`ChainLayout.names`."""
    forward = [parameter for layer in network.layers for parameter in layer.parameters]
    backward = [parameter for layer in reversed(network.layers) for parameter in layer.parameters]
    others = [parameter for _, parameter in _other_parameters(network.blocks)]
    theta, grad = network.theta, network.grad
    parts = [(theta, forward), (grad, backward), (theta, others), (grad, others)]
    return [flat[:, parameter.place] for flat, parameters in parts for parameter in parameters]


def _digest(part: Array) -> bytes:
    return hashlib.blake2b(part.data, digest_size=DIGEST).digest()


def _one_nan(part: Array) -> Array:
    """Any NaN is as good as any other: their sign and payload depend on the order of operands."""
    return np.where(np.isnan(part), np.array(np.nan, part.dtype), part)
