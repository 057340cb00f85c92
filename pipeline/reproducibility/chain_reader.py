"""Read a logged hash chain, check its integrity, and locate the first difference between two chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.arrays import Array
from pipeline.errors import ConfigError
from pipeline.reproducibility.hash_chain import (
    CHAIN_COLUMNS,
    CHAIN_FILE,
    GENESIS_STEP,
    HEAD_TAG,
    LINK,
    NORMS_TAG,
    ROWS,
    Name,
    combined_head,
    next_link,
    norms_digest,
)

LABELS = {"W": "W", "b": "b", "dW": "∂C/∂W", "db": "∂C/∂b", ROWS: "the rows of the batch"}


@dataclass(frozen=True)
class LoggedChain:
    """A chain as arrays over T steps, R replicates and Q quantities.

    Attributes:
        steps: Ascending.
        names: The Q pairs (layer, quantity), in the order in which a step computes them.
        digests: Hexadecimal [T, R, Q].
        norms: Norms [T, R, Q].
        links: Hexadecimal [T + 1, R], genesis first.
    """

    steps: tuple[int, ...]
    names: tuple[Name, ...]
    digests: Array
    norms: Array
    links: Array

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> LoggedChain:
        """Read the table that :meth:`pipeline.reproducibility.hash_chain.HashChain.table` returns.

        Raises:
            ConfigError: Rows are missing, repeated, out of order or of the wrong type.
        """
        if list(table.columns) != list(CHAIN_COLUMNS):
            raise ConfigError(f"{CHAIN_FILE}: must have the columns {', '.join(CHAIN_COLUMNS)}")
        try:
            table = table.astype({"step": "int64", "replicate": "int64", "layer": "Int64", "norm": "float64"})
            return cls._from_columns(
                {c: table[c].fillna(0).to_numpy() if c == "layer" else table[c].to_numpy() for c in CHAIN_COLUMNS}
            )
        except (ValueError, TypeError, IndexError) as error:
            raise ConfigError(f"{CHAIN_FILE}: rows are missing, repeated, out of order or of the wrong type") from error

    @classmethod
    def _from_columns(cls, columns: Mapping[str, Array]) -> LoggedChain:
        step, replicate, layer, quantity, digest, norm = (columns[c] for c in CHAIN_COLUMNS)
        replicates = int(np.count_nonzero(step == GENESIS_STEP))
        first_block = (step == step[replicates]) & (replicate == 0) & (step > GENESIS_STEP)
        steps, rows_per_block = np.unique(step[replicates:]), int(np.count_nonzero(first_block))
        shape = (len(steps), replicates, rows_per_block)
        expected = {
            "step": np.broadcast_to(steps[:, None, None], shape),
            "replicate": np.broadcast_to(np.arange(replicates)[:, None], shape),
            "layer": np.broadcast_to(layer[first_block], shape),
            "quantity": np.broadcast_to(quantity[first_block], shape),
        }
        is_genesis = (
            (step[:replicates] == GENESIS_STEP)
            & (replicate[:replicates] == np.arange(replicates))
            & (quantity[:replicates] == LINK)
        )
        is_regular = all(np.array_equal(columns[c][replicates:].reshape(shape), e) for c, e in expected.items())
        ends_in_link = steps.min() > GENESIS_STEP and quantity[first_block][-1] == LINK
        if not (is_regular and is_genesis.all() and ends_in_link):
            raise ValueError("not the layout of a chain")
        blocks = digest[replicates:].reshape(shape)
        names = tuple((int(a) or None, str(b)) for a, b in zip(layer[first_block], quantity[first_block], strict=True))
        links = np.concatenate([digest[None, :replicates], blocks[:, :, -1]])
        norms = norm[replicates:].reshape(shape)[:, :, :-1]
        return cls(tuple(steps.tolist()), names[:-1], blocks[:, :, :-1], norms, links)

    @property
    def replicates(self) -> int:
        """Return R."""
        return self.links.shape[1]

    def integrity_errors(self, tags: Mapping[str, str]) -> Iterator[str]:
        """Yield each sign that the chain was changed after it was logged.

        Checked are the links, the head and the norms.

        Args:
            tags: The run's tags.
        """
        error = self._link_error()
        if error is not None:
            yield error
        head = combined_head([_bytes(link) for link in self.links[-1]])
        if head != tags.get(HEAD_TAG):
            yield f"its head is {head[:16]}, but the run's tag {HEAD_TAG} is {tags.get(HEAD_TAG, 'missing')[:16]}"
        if NORMS_TAG in tags and norms_digest(self.norms.ravel()) != tags[NORMS_TAG]:
            yield f"its norms do not match the run's tag {NORMS_TAG}"

    def _link_error(self) -> str | None:
        for t, step in enumerate(self.steps):
            for k in range(self.replicates):
                digests = b"".join(_bytes(text) for text in self.digests[t, k])
                if next_link(_bytes(self.links[t, k]), step, digests).hex() != self.links[t + 1, k]:
                    return f"the link of step {step}, replicate {k} does not follow from the link and digests before it"
        return None


def _bytes(text: object) -> bytes:
    """Decode hexadecimal text; text that is not hexadecimal gives no bytes, so no link follows from it."""
    try:
        return bytes.fromhex(str(text))
    except ValueError:
        return b""


@dataclass(frozen=True)
class ChainDifference:
    """The first digest in which two chains differ, in the order in which a step computes.

    Attributes:
        name: Layer and quantity.
        replicate: Number of the replicate in the first chain.
        first_norm, second_norm: The quantity's norm in each chain.
        names: Every (layer, quantity) that differs at this step, in any replicate.
        last_equal_step: The last common step before it; None if it is the first common step.
    """

    step: int
    name: Name
    replicate: int
    first_norm: float
    second_norm: float
    names: tuple[Name, ...]
    last_equal_step: int | None

    def describe(self, first: str, second: str) -> str:
        """Return one line; ``first`` and ``second`` name the two chains."""
        layer, quantity = self.name
        label = LABELS.get(quantity, quantity)
        place = f"layer {layer}, {label}" if layer else label
        since = "" if self.last_equal_step is None else f"; all equal at step {self.last_equal_step}"
        return f"step {self.step}, {place}, replicate {self.replicate}{self._size(first, second)}{since}"

    def _size(self, first: str, second: str) -> str:
        if self.name[0] is None:
            return ""
        a, b = self.first_norm, self.second_norm
        if a == b or (np.isnan(a) and np.isnan(b)):
            return f": norm {a!r} in both, the difference is too small for a norm to show"
        with np.errstate(all="ignore"):
            relative = abs(b - a) / max(abs(a), abs(b))
        return f": norm {first} {a!r}, {second} {b!r} (relative difference {relative:.2g})"

    def all_names(self) -> str:
        """Return everything that differs at this step, as in "W in layers 1-3; ∂C/∂W in layer 3"."""
        parts = []
        for quantity, label in LABELS.items():
            layers = sorted(layer or 0 for layer, name in self.names if name == quantity)
            if layers:
                parts.append(label if quantity == ROWS else f"{label} in {format_ranges(layers)}")
        return "; ".join(parts)


def format_ranges(layers: Sequence[int]) -> str:
    """Return ascending layer numbers as text, as in "layers 1-3, 7"."""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and ranges[-1][1] == layer - 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
    return f"layer{'s' if len(layers) > 1 else ''} {text}"


def common_steps(a: LoggedChain, b: LoggedChain) -> list[int]:
    """Return the steps that both chains have."""
    return sorted(set(a.steps) & set(b.steps))


def first_chain_difference(a: LoggedChain, b: LoggedChain, pairs: Sequence[tuple[int, int]]) -> ChainDifference | None:
    """Compare two chains at their common steps.

    Args:
        a: The first chain.
        b: The second chain.
        pairs: Replicate of the first chain, replicate of the second.

    Returns:
        The first digest that differs; None if all are equal.

    Raises:
        ConfigError: The chains have different quantities, so their networks have different depths.
    """
    if a.names != b.names:
        raise ConfigError(f"{CHAIN_FILE}: the two chains are of networks of different depths")
    replicates_a, replicates_b = ([pair[i] for pair in pairs] for i in range(2))
    last_equal_step = None
    for step in common_steps(a, b):
        at_a, at_b = a.steps.index(step), b.steps.index(step)
        differ = a.digests[at_a][replicates_a] != b.digests[at_b][replicates_b]  # [pairs, Q]
        if differ.any():
            q = int(np.argmax(differ.any(axis=0)))
            i = int(np.argmax(differ[:, q]))
            norm_a, norm_b = float(a.norms[at_a, replicates_a[i], q]), float(b.norms[at_b, replicates_b[i], q])
            names = tuple(name for name, differs in zip(a.names, differ.any(axis=0), strict=True) if differs)
            return ChainDifference(step, a.names[q], replicates_a[i], norm_a, norm_b, names, last_equal_step)
        last_equal_step = step
    return None
