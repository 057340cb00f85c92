"""The hash chain over a run's trajectory, which a replay is compared with bit by bit.

At scheduled steps, and at the first and the last step, each replicate's batch (row numbers) and every layer's W, b,
∂C/∂W and ∂C/∂b are hashed. A link is the hash of the previous link, the step and these digests. The last link, the
head, therefore depends on every digest. Replicate k of a stack has the same links as a run of seed + k alone. Each
digest comes with a norm, because a digest shows that two quantities differ but not by how much.

Shapes: R replicates, Q quantities.
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
GENESIS_STEP = -1  # of the links before the first step
DIGEST_SIZE, LINK_SIZE = 16, 32  # bytes
Name = tuple[int | None, str]


@dataclass(frozen=True)
class ChainLayout:
    """The quantities that are hashed at a step, and their order.

    Args:
        sizes: Units of the layers, input first.
        dtype: NumPy's type code with the byte order, such as "<f8".
        others: Names of the parameters that are not W or b of a layer, in forward order.
    """

    sizes: tuple[int, ...]
    dtype: str
    others: tuple[str, ...] = ()

    def names(self) -> list[Name]:
        """Return (layer, quantity) in the order of computation: batch, θ, then ∇C from the top layer down."""
        layers = range(1, len(self.sizes))
        forward: list[Name] = [(layer, quantity) for layer in layers for quantity in ("W", "b")]
        backward: list[Name] = [(layer, quantity) for layer in reversed(layers) for quantity in ("dW", "db")]
        others: list[Name] = [(None, f"{d}{name}") for d in ("", "d") for name in self.others]
        return [(None, ROWS), *forward, *backward, *others]

    def genesis(self) -> bytes:
        """Return the link before the first step; it covers sizes and dtype, which the arrays' bytes do not show."""
        facts: dict[str, Any] = {"chain": 1, "dtype": self.dtype, "sizes": list(self.sizes)}
        if self.others:
            facts["others"] = list(self.others)
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=LINK_SIZE).digest()


def next_link(link: bytes, step: int, digests: bytes) -> bytes:
    """Return the link that follows ``link`` at a step with these digests."""
    return hashlib.blake2b(link + step.to_bytes(8, "little") + digests, digest_size=LINK_SIZE).digest()


def combined_head(heads: Sequence[bytes]) -> str:
    """Return the head of a run, hexadecimal, computed from the heads of its replicates."""
    return hashlib.blake2b(b"".join(heads), digest_size=LINK_SIZE).hexdigest()


def norms_digest(norms: Array) -> str:
    """Return the digest of all norms in the order of the table, because the links do not cover them."""
    return hashlib.blake2b(canonical_nan(norms).astype("<f8").tobytes(), digest_size=DIGEST_SIZE).hexdigest()


class HashChain:
    """Compute the chain of a run; a :class:`pipeline.training.loop.TrajectoryObserver`.

    Args:
        run: The run whose trajectory is hashed.
        schedule: The steps to hash.
        ends: Whether to hash the first and the last step in any case.
        start: The first step that training runs.
        state: A result of :meth:`state` at an earlier step, to resume from.

    Raises:
        ValueError: The state does not fit the run.
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
        # A stack holds the rows of all replicates' data; subtracting the first makes them those of the run alone.
        data = run.data
        sets = [rows.min(axis=1, initial=len(data.x)) for rows in (data.train, data.validation, data.test)]
        self._first_row = np.min(sets, axis=0)
        self._quantities = len(self.layout.names())
        self._scheduler = _scheduler(schedule, run.length, ends, start)
        self._steps: list[int] = []
        self._digests: list[Array] = []  # uint8 [R, Q, DIGEST_SIZE] for each step
        self._norms: list[Array] = []  # [R, Q] for each step
        self._links = [[self.layout.genesis()] * self._replicates]
        if state is not None:
            self._restore(state)

    def due(self, step: int) -> bool:
        """Return whether to hash this step."""
        return bool(self._scheduler.due(step))

    @np.errstate(all="ignore")
    def on_step(self, step: int, network: Network, rows: Array) -> None:
        """Add a link for each replicate.

        Args:
            step: Updates made before this step.
            network: The network after its backward pass.
            rows: Row numbers of the batch [R, B].
        """
        arrays = _arrays(network)
        norms = np.full((self._replicates, self._quantities), np.nan)
        norms[:, 1:] = np.stack([norm(x, axes=1) for x in arrays], axis=-1)
        digests = np.empty((*norms.shape, DIGEST_SIZE), dtype=np.uint8)
        for k in range(self._replicates):
            batch = np.ascontiguousarray(rows[k] - self._first_row[k], dtype="<i8")
            for q, part in enumerate([batch, *(x[k] for x in arrays)]):
                has_nan = q > 0 and np.isnan(norms[k, q])
                digests[k, q] = np.frombuffer(_digest(canonical_nan(part) if has_nan else part), dtype=np.uint8)
        self._add(step, digests, norms)

    def _add(self, step: int, digests: Array, norms: Array) -> None:
        self._steps.append(step)
        self._digests.append(digests)
        self._norms.append(norms)
        previous = self._links[-1]
        self._links.append([next_link(link, step, d.tobytes()) for link, d in zip(previous, digests, strict=True)])

    def state(self) -> dict[str, Any]:
        """Return the chain so far as plain data that JSON stores exactly."""
        return {
            "genesis": self.layout.genesis().hex(),
            "steps": list(self._steps),
            "digests": [d.tobytes().hex() for d in self._digests],
            "norms": [n.astype("<f8").tobytes().hex() for n in self._norms],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["genesis"] != self.layout.genesis().hex():
            raise ValueError("the saved chain has other layers or another dtype")
        shape = (self._replicates, self._quantities)
        for step, digests, norms in zip(state["steps"], state["digests"], state["norms"], strict=True):
            restored = np.frombuffer(bytes.fromhex(digests), dtype=np.uint8).reshape(*shape, DIGEST_SIZE)
            self._add(int(step), restored, np.frombuffer(bytes.fromhex(norms), dtype="<f8").reshape(shape))

    @property
    def heads(self) -> list[str]:
        """Return the last link of each replicate, hexadecimal."""
        return [link.hex() for link in self._links[-1]]

    def tags(self) -> dict[str, str]:
        """Return the tags that a run logs: the head, and a digest of the norms."""
        norms = np.array(self._norms).ravel()
        return {HEAD_TAG: combined_head(self._links[-1]), NORMS_TAG: norms_digest(norms)}

    def table(self) -> pd.DataFrame:
        """Return one row for each digest, in the order of :meth:`ChainLayout.names`; each step ends with its link."""
        names: list[Name] = [*self.layout.names(), (None, LINK)]
        replicates, count = self._replicates, len(names)
        steps = np.repeat(np.array(self._steps, dtype=np.int64), replicates * count)
        digests = [
            text
            for step_digests, links in zip(self._digests, self._links[1:], strict=True)
            for d, link in zip(step_digests, links, strict=True)
            for text in (*(x.tobytes().hex() for x in d), link.hex())
        ]
        norms = [np.pad(n, ((0, 0), (0, 1)), constant_values=np.nan).ravel() for n in self._norms]
        layers: list[Any] = [pd.NA if layer is None else layer for layer, _ in names]
        blocks = len(self._steps) * replicates
        columns: dict[str, Any] = {
            "step": np.concatenate([np.full(replicates, GENESIS_STEP), steps]),
            "replicate": [*range(replicates), *np.repeat(list(range(replicates)) * len(self._steps), count)],
            "layer": pd.Series([pd.NA] * replicates + layers * blocks, dtype="Int64"),
            "quantity": [LINK] * replicates + [quantity for _, quantity in names] * blocks,
            "digest": [link.hex() for link in self._links[0]] + digests,
            "norm": np.concatenate([np.full(replicates, np.nan), *norms]),
        }
        return pd.DataFrame(columns).astype({"quantity": "str", "digest": "str", "replicate": "int64"})


def _scheduler(schedule: Schedule, length: TrainingLength, ends: bool, start: int) -> ProbeScheduler:
    schedules: dict[str, Schedule] = {"chosen": schedule}
    if ends:
        schedules["ends"] = FirstAndLast()
    return ProbeScheduler(schedules, length, start)


def _other_parameters(blocks: Sequence[Block]) -> list[tuple[str, Parameter]]:
    """Return the parameters that are not W or b of a Dense layer, with their names."""
    numbered = enumerate(flatten(blocks))
    return [
        (f"block_{i}.{p.name}", p) for i, block in numbered if not isinstance(block, Dense) for p in block.parameters
    ]


def _arrays(network: Network) -> list[Array]:
    """Return parameters and gradients, flat [R, size] each, in the order of :meth:`ChainLayout.names`."""
    forward = [parameter for layer in network.layers for parameter in layer.parameters]
    backward = [parameter for layer in reversed(network.layers) for parameter in layer.parameters]
    others = [parameter for _, parameter in _other_parameters(network.blocks)]
    theta, grad = network.theta, network.grad
    parts = [(theta, forward), (grad, backward), (theta, others), (grad, others)]
    return [flat[:, parameter.place] for flat, parameters in parts for parameter in parameters]


def _digest(part: Array) -> bytes:
    return hashlib.blake2b(part.data, digest_size=DIGEST_SIZE).digest()


def canonical_nan(part: Array) -> Array:
    """Replace every NaN by the same one: a NaN's sign and payload depend on the order of operands."""
    return np.where(np.isnan(part), np.array(np.nan, part.dtype), part)
