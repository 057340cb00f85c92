"""Account for the time of each activity. The clock is an argument: training never reads one itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Timer:
    """Adds the time since the last mark to a name, so that all time is accounted for.

    Args:
        clock: Returns ascending seconds; None measures nothing.

    Attributes:
        seconds: Time by name, seconds.
    """

    def __init__(self, clock: Callable[[], float] | None) -> None:
        self._clock = clock
        self._last = clock() if clock else 0.0
        self.seconds: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """Add the time since the last mark to this name."""
        if self._clock is not None:
            now = self._clock()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
            self._last = now

    def added_to(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Return the sum of these times and others, by name."""
        names = dict.fromkeys([*seconds, *self.seconds])
        return {name: seconds.get(name, 0.0) + self.seconds.get(name, 0.0) for name in names}
