"""Draw small networks with a known condition. The seed and the number of a network determine its overrides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from experiments.verdicts.kinds import CYCLE, Kind


@dataclass(frozen=True)
class Planted:
    """A network with a known condition.

    Attributes:
        number: The number of the network. With the seed it determines everything else.
        kind: Its condition.
        overrides: The overrides of the run's config.
        why: How the condition is known.
    """

    number: int
    kind: Kind
    overrides: tuple[str, ...]
    why: str


def generate(count: int, seed: int = 0) -> Iterator[Planted]:
    """Yield the first networks. Kinds alternate, so that any first part has its share of each."""
    for number in range(count):
        yield plant(CYCLE[number % len(CYCLE)], number, seed)


def plant(kind: Kind, number: int, seed: int = 0) -> Planted:
    """Return network ``number`` of a seed with a condition."""
    rng = np.random.default_rng([seed, number])
    common = [f"replicates={int(rng.integers(3, 6))}", f"seed={int(rng.integers(1_000_000))}"]
    overrides, why = kind.draw(rng, common)
    return Planted(number, kind, (*common, *overrides), why)
