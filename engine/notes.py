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


class NotNotedError(LookupError):
    """Something was asked for that nobody had said would be."""


class Notes:
    """The sums of up to K steps.

    Args:
        layers: of a step as the others will be, with the same sums wanted.
        capacity: K.
        of_update: whether the size of the update will be asked for.

    Attributes:
        steps: those that are noted.
    """

    def __init__(self, layers: Layers, capacity: int, of_update: bool) -> None:
        plan, places = layers.plan, layers.sums.places
        self.plan, self.wanted, self.of_update = plan, layers.sums.wanted, of_update
        shape = len(plan.numbers), capacity, *plan.ensemble
        self.sums = np.ones((len(Of), *shape), places.dtype)
        self.variance, self.dead = np.empty(shape), np.empty((capacity, len(places.live)), bool)
        self.below = {fraction: np.empty(shape) for fraction in self.wanted.below}
        self.factors = np.ones((capacity, *[1] * len(plan.ensemble)))
        self.has_variance = {Of.A, Of.AA} <= self.wanted.sums
        self._capacity = capacity
        self.steps: list[int] = []

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return len(self.steps) == self._capacity

    def note(self, layers: Layers, step: int) -> bool:
        """Note a step for which sums are enough; False, and nothing noted, if the numbers themselves are needed.

        They are where a sum cannot be trusted, or if the update is no multiple of the gradient; or if nobody had these
        sums taken.
        """
        sums, wanted, k = layers.sums, self.wanted, len(self.steps)
        factor = layers.factor if self.of_update else 1.0
        if factor is None or sums.wanted is not wanted or not (sums.safe and sums.safe_times(factor * factor)):
            return False
        if self.has_variance:
            self.variance[:, k] = layers.activation_variance
        elif Of.A in wanted.sums and not np.isfinite(sums.places.sums[Of.A]).all():
            return False
        self.factors[k] = factor
        self.sums[:, :, k] = sums.places.sums
        for fraction, counts in self.below.items():
            counts[:, k] = sums.below(fraction)
        if wanted.live:
            np.equal(sums.live(), 0, self.dead[k])
        self.steps.append(step)  # now, and not before, it is there
        return True

    def vitals(self) -> Vitals:
        """Of the steps noted, in order, as an axis in front of the ensemble axes: [L, k, E...]; to be read at once.

        What was not wanted raises NotNotedError.
        """
        return _Noted(self)

    def clear(self) -> None:
        """Begin anew."""
        self.steps.clear()


class _Noted(Vitals):
    """Its own source of sums, all of which can be trusted."""

    def __init__(self, notes: Notes) -> None:
        super().__init__(notes.plan, self, axes=1)
        self._notes, self._steps = notes, slice(0, len(notes.steps))

    def norm(self, of: Of) -> Array:
        return np.sqrt(self._sum(of))

    def mean(self, of: Of) -> Array:
        return np.asarray(self._sum(of) / self.pairs)

    mean_square = mean

    def below(self, fraction: float) -> Array:
        self._require(fraction in self._notes.below, f"the count below {fraction}")
        return self._notes.below[fraction][:, self._steps]

    def dead(self) -> Array:
        self._require(self._notes.wanted.live, "which units are live")
        dead, plan = self._notes.dead[self._steps], self.plan
        counts = np.zeros((len(dead), len(plan.starts)))
        if dead.any():
            counts = np.add.reduceat(dead.astype(np.float64), plan.starts, axis=1)
        return counts.reshape(len(dead), *plan.shape).swapaxes(0, 1)

    def _sum(self, of: Of) -> Array:
        self._require(of in self._notes.wanted.sums, f"the sum {of.name}")
        return self._notes.sums[of, :, self._steps].astype(np.float64)

    def _update_norm(self) -> Array:
        self._require(self._notes.of_update, "the size of the update")
        return np.abs(self._notes.factors[self._steps]) * self.gradient_norm

    def _activation_variance(self) -> Array:
        self._require(self._notes.has_variance, "the variance of a")
        return self._notes.variance[:, self._steps]

    def _require(self, there: bool, what: str) -> None:
        if not there:
            raise NotNotedError(f"{what} was not wanted when these steps were noted")
