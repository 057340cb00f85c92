"""Where the time goes. The clock is an argument: mathematics never reads one."""

from __future__ import annotations

from collections.abc import Callable


class Timer:
    """Adds the time since the last lap to a name, so that all time is accounted for.

    Args:
        clock: seconds, ascending; None to measure nothing.

    Attributes:
        seconds: by name.
    """

    def __init__(self, clock: Callable[[], float] | None) -> None:
        self._clock = clock
        self._last = clock() if clock else 0.0
        self.seconds: dict[str, float] = {}

    @property
    def idle(self) -> bool:
        """Whether it measures nothing."""
        return self._clock is None

    def mark(self, name: str) -> None:
        """The time since the last lap was spent on this."""
        if self._clock is not None:
            now = self._clock()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
            self._last = now
