"""A probe that lets a training take longer without using the processor, and that changes no number."""

from __future__ import annotations

import os
import time

from engine.arrays import Array, norm
from engine.probes import Layer

PAUSE = "GRADVITALS_TEST_PAUSE"  # seconds at each measurement


def pause(layer: Layer) -> Array | None:
    """Return ‖W‖ of the first layer, after a pause."""
    if layer.number > 1:
        return None
    time.sleep(float(os.environ.get(PAUSE, "0")))
    return norm(layer.W)
