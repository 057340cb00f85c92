"""One stream of random numbers for each purpose, split from the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RandomStreams:
    """One generator per replicate for each use of randomness, so that a change of one use keeps the others."""

    data: list[np.random.Generator]
    initialisation: list[np.random.Generator]
    batching: list[np.random.Generator]

    @classmethod
    def of(cls, seed: int, replicates: int) -> RandomStreams:
        """Split the seeds. Replicate k receives the children of SeedSequence(seed + k), in the order of the fields.

        Args:
            seed: Seed of replicate 0.
            replicates: Number of replicates.
        """
        children = [np.random.SeedSequence(seed + k).spawn(3) for k in range(replicates)]
        data, initialisation, batching = ([np.random.default_rng(c[i]) for c in children] for i in range(3))
        return cls(data, initialisation, batching)
