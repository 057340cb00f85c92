"""A logged chain, read back: is it whole, do its links follow, and where do two of them part?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.arrays import Array
from pipeline.errors import ConfigError
from pipeline.reproducibility.hash_chain import (
    BEFORE,
    CHAIN_COLUMNS,
    CHAIN_FILE,
    HEAD_TAG,
    LINK,
    NORMS_TAG,
    ROWS,
    Name,
    combined_head,
    digest_of_norms,
    linked,
)

WORDS = {"W": "W", "b": "b", "dW": "∂C/∂W", "db": "∂C/∂b", ROWS: "the rows of the batch"}


@dataclass(frozen=True)
class LoggedChain:
    """A chain as arrays over T steps, R replicates, Q quantities.

    Attributes:
        steps: ascending.
        names: the Q (layer, quantity), in the order in which a step computes.
        digests: hexadecimal [T, R, Q].
        norms: [T, R, Q].
        links: hexadecimal [T + 1, R], genesis first.
    """

    steps: tuple[int, ...]
    names: tuple[Name, ...]
    digests: Array
    norms: Array
    links: Array

    @classmethod
    def of(cls, table: pd.DataFrame) -> LoggedChain:
        """From the table :meth:`pipeline.reproducibility.hash_chain.Chain.table` makes.

        Raises:
            ConfigError: rows are missing, doubled, out of order or not what they should be.
        """
        if list(table.columns) != list(CHAIN_COLUMNS):
            raise ConfigError(f"{CHAIN_FILE}: must have the columns {', '.join(CHAIN_COLUMNS)}")
        try:
            table = table.astype({"step": "int64", "replicate": "int64", "layer": "Int64", "norm": "float64"})
            return cls._of_arrays(
                {c: table[c].fillna(0).to_numpy() if c == "layer" else table[c].to_numpy() for c in CHAIN_COLUMNS}
            )
        except (ValueError, TypeError, IndexError) as broken:
            raise ConfigError(f"{CHAIN_FILE}: rows are missing, doubled, out of order or of another kind") from broken

    @classmethod
    def _of_arrays(cls, columns: Mapping[str, Array]) -> LoggedChain:
        step, replicate, layer, quantity, digest, norm = (columns[c] for c in CHAIN_COLUMNS)
        count = int(np.count_nonzero(step == BEFORE))
        first = (step == step[count]) & (replicate == 0) & (step > BEFORE)
        steps, names = np.unique(step[count:]), int(np.count_nonzero(first))
        shape = (len(steps), count, names)
        expected = {
            "step": np.broadcast_to(steps[:, None, None], shape),
            "replicate": np.broadcast_to(np.arange(count)[:, None], shape),
            "layer": np.broadcast_to(layer[first], shape),
            "quantity": np.broadcast_to(quantity[first], shape),
        }
        genesis = (step[:count] == BEFORE) & (replicate[:count] == np.arange(count)) & (quantity[:count] == LINK)
        right = all(np.array_equal(columns[c][count:].reshape(shape), values) for c, values in expected.items())
        if not (right and genesis.all() and steps.min() > BEFORE and quantity[first][-1] == LINK):
            raise ValueError("not what a chain writes")
        blocks = digest[count:].reshape(shape)
        named = tuple((int(a) or None, str(b)) for a, b in zip(layer[first], quantity[first], strict=True))
        links = np.concatenate([digest[None, :count], blocks[:, :, -1]])
        norms = norm[count:].reshape(shape)[:, :, :-1]
        return cls(tuple(steps.tolist()), named[:-1], blocks[:, :, :-1], norms, links)

    @property
    def replicates(self) -> int:
        """R."""
        return self.links.shape[1]

    def integrity_errors(self, tags: Mapping[str, str]) -> Iterator[str]:
        """What shows that it is not as it was logged: links that do not follow, heads and norms that are not the tags'.

        Args:
            tags: of the run.
        """
        fault = self._broken()
        if fault is not None:
            yield fault
        head = combined_head([_bytes(link) for link in self.links[-1]])
        if head != tags.get(HEAD_TAG):
            yield f"its head is {head[:16]}, but the run's tag {HEAD_TAG} says {tags.get(HEAD_TAG, 'nothing')[:16]}"
        if NORMS_TAG in tags and digest_of_norms(self.norms.ravel()) != tags[NORMS_TAG]:
            yield f"its norms are not those that the run's tag {NORMS_TAG} speaks of"

    def _broken(self) -> str | None:
        for t, step in enumerate(self.steps):
            for k in range(self.replicates):
                digests = b"".join(_bytes(text) for text in self.digests[t, k])
                if linked(_bytes(self.links[t, k]), step, digests).hex() != self.links[t + 1, k]:
                    return f"the link of step {step}, replicate {k} does not follow from what stands before it"
        return None


def _bytes(text: object) -> bytes:
    """What a hexadecimal text says; nothing, if it is none."""
    try:
        return bytes.fromhex(str(text))
    except ValueError:
        return b""


@dataclass(frozen=True)
class ChainDifference:
    """The first digest at which two trails part, in the order in which a step computes.

    Attributes:
        name: its layer and quantity.
        replicate: of the first trail.
        first_norm, second_norm: the norms.
        names: all that differ at that step, in any replicate.
        last_alike: the last step before it that both have, None if it is the first.
    """

    step: int
    name: Name
    replicate: int
    first_norm: float
    second_norm: float
    names: tuple[Name, ...]
    last_alike: int | None

    def describe(self, first: str, second: str) -> str:
        """In words, with what to call the two."""
        layer, quantity = self.name
        place = f"layer {layer}, {WORDS.get(quantity, quantity)}" if layer else WORDS.get(quantity, quantity)
        since = "" if self.last_alike is None else f"; all alike at step {self.last_alike}"
        return f"step {self.step}, {place}, replicate {self.replicate}{self._size(first, second)}{since}"

    def _size(self, first: str, second: str) -> str:
        if self.name[0] is None:
            return ""
        if self.first_norm == self.second_norm or (np.isnan(self.first_norm) and np.isnan(self.second_norm)):
            return f": norm {self.first_norm!r} in both, so by less than a norm shows"
        with np.errstate(all="ignore"):
            relative = abs(self.second_norm - self.first_norm) / max(abs(self.first_norm), abs(self.second_norm))
        return f": norm {first} {self.first_norm!r}, {second} {self.second_norm!r} (by {relative:.2g} of it)"

    def all_names(self) -> str:
        """All that differ at that step: "W in layers 1-3; ∂C/∂W in layer 3"."""
        told = []
        for quantity, word in WORDS.items():
            layers = sorted(layer or 0 for layer, q in self.names if q == quantity)
            if layers:
                told.append(word if quantity == ROWS else f"{word} in {format_ranges(layers)}")
        return "; ".join(told)


def format_ranges(layers: Sequence[int]) -> str:
    """Ascending numbers as "layers 1-3, 7"."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    told = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"layer{'s' if len(layers) > 1 else ''} {told}"


def common_steps(a: LoggedChain, b: LoggedChain) -> list[int]:
    """Steps that both have."""
    return sorted(set(a.steps) & set(b.steps))


def first_chain_difference(a: LoggedChain, b: LoggedChain, pairs: Sequence[tuple[int, int]]) -> ChainDifference | None:
    """Where two trails first part, of the steps that both have; None if they do not.

    Args:
        pairs: which replicate of the first is held against which of the second.

    Raises:
        ConfigError: trails of different quantities, which are those of networks of different depth.
    """
    if a.names != b.names:
        raise ConfigError(f"{CHAIN_FILE}: the two chains are of networks of different depth")
    ka, kb = ([pair[i] for pair in pairs] for i in range(2))
    last = None
    for step in common_steps(a, b):
        ta, tb = a.steps.index(step), b.steps.index(step)
        differ = a.digests[ta][ka] != b.digests[tb][kb]  # [pairs, Q]
        if differ.any():
            q = int(np.argmax(differ.any(axis=0)))
            i = int(np.argmax(differ[:, q]))
            was, now = float(a.norms[ta, ka[i], q]), float(b.norms[tb, kb[i], q])
            names = tuple(name for name, any_of in zip(a.names, differ.any(axis=0), strict=True) if any_of)
            return ChainDifference(step, a.names[q], ka[i], was, now, names, last)
        last = step
    return None
