"""Steps of which only sums were noted, to be looked at many at once.

In a small network it is not the numbers that make measuring dear but the calls. Most probes follow from a few sums
(:class:`engine.vitals.Vitals`): a step's are noted in a few calls, and what follows from them is worked out for many
steps at once, as if these were members of a stack. The values are those that each step would have given by itself, bit
for bit.
"""

from __future__ import annotations

import numpy as np

from engine.arrays import Array
from engine.observed import Layers
from engine.sums import Of
from engine.vitals import Vitals


class Notes:
    """The sums of up to K steps.

    Args:
        layers: of a step as the others will be, with the same sums wanted.
        capacity: K.
        of_update: whether the size of the update will be asked for.
    """

    def __init__(self, layers: Layers, capacity: int, of_update: bool) -> None:
        plan, places = layers.plan, layers.sums.places
        self._plan, self._wanted, self._of_update = plan, layers.sums.wanted, of_update
        shape = len(plan.numbers), capacity, *plan.ensemble
        self._sums = np.ones((len(Of), *shape), places.dtype)
        self._variance, self._dead = np.empty(shape), np.empty((capacity, len(places.live)), bool)
        self._below = {fraction: np.empty(shape) for fraction in self._wanted.below}
        self._factors = np.ones(capacity)
        self._capacity = capacity
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return self.count == self._capacity

    def note(self, layers: Layers) -> bool:
        """Note a step for which sums are enough; False, and nothing noted, if the numbers themselves are needed.

        They are where a sum of squares cannot be trusted, or if the update is no multiple of the gradient.
        """
        sums, wanted, k = layers.sums, self._wanted, self.count
        factor = layers.factor if self._of_update else 1.0
        if factor is None or not (sums.safe and sums.safe_times(factor * factor)):
            return False
        self._factors[k] = factor
        self._sums[:, :, k] = sums.places.sums
        if Of.AA in wanted.sums:
            self._variance[:, k] = layers.activation_variance
        for fraction, counts in self._below.items():
            counts[:, k] = sums.below(fraction)
        if wanted.live:
            np.equal(sums.live(), 0, self._dead[k])
        self.count += 1
        return True

    def vitals(self) -> Vitals:
        """Of the steps noted, in order, as an axis in front of the ensemble axes: [L, k, E...]; to be read at once."""
        return self._Noted(self)

    def clear(self) -> None:
        """Begin anew."""
        self.count = 0

    class _Noted(Vitals):
        """Its own source of sums, all of which can be trusted."""

        def __init__(self, notes: Notes) -> None:
            super().__init__(notes._plan.of_many(notes.count), self)
            self._notes, self._steps = notes, slice(0, notes.count)

        def norm(self, of: Of) -> Array:
            return np.sqrt(self._sum(of))

        def mean(self, of: Of) -> Array:
            return np.asarray(self._sum(of) / self.pairs)

        mean_square = mean

        def below(self, fraction: float) -> Array:
            return self._notes._below[fraction][:, self._steps]

        def dead(self) -> Array:
            dead = self._notes._dead[self._steps]
            if not dead.any():
                return np.zeros(self.plan.shape)
            counts = np.add.reduceat(dead.astype(np.float64), self.plan.starts, axis=1)
            return counts.reshape(len(dead), len(self.numbers), *self.plan.ensemble[1:]).swapaxes(0, 1)

        def _sum(self, of: Of) -> Array:
            return self._notes._sums[of, :, self._steps].astype(np.float64)

        def _update_norm(self) -> Array:
            factors = self._notes._factors[self._steps].reshape(-1, *[1] * (self.gradient_norm.ndim - 2))
            return np.abs(factors) * self.gradient_norm

        def _activation_variance(self) -> Array:
            return self._notes._variance[:, self._steps]
