"""Any probe under a random cotangent: δ^L is Gaussian instead of the cost's."""

from __future__ import annotations

from dataclasses import dataclass

from engine.moment import Moment
from engine.probes.base import Probe, Reading


@dataclass(frozen=True)
class RandomCotangent(Probe):
    """What ``probe`` finds when δ^L ~ N(0, 1) takes the place of the cost's error.

    The backward pass of theory, without what the cost adds: δ^L of all examples alike in size, and independent of the
    weights. Drawn anew at each step from the run's own seed; training does not notice.

    Args:
        probe: whose readings are taken.
    """

    probe: Probe

    @property
    def geometric(self) -> bool:  # type: ignore[override]
        """As the probe's."""
        return self.probe.geometric

    @property
    def needs_previous(self) -> bool:  # type: ignore[override]
        """As the probe's; it finds no gradient of the step before under the same cotangent, and gives no reading."""
        return self.probe.needs_previous

    @property
    def costly(self) -> bool:  # type: ignore[override]
        """As the probe's."""
        return self.probe.costly

    def readings(self, moment: Moment) -> list[Reading]:
        return self.probe.readings(moment.under_random_cotangent)
