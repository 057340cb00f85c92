"""How many examples hypothesis draws."""

from __future__ import annotations

import os

FULL_TIER = ("GRADVITALS_REQUIRE_ALL", "GRADVITALS_SLOW")  # either variable asks for every example


def examples(count: int) -> int:
    """Return ``count`` in the full tier; otherwise a third of it, at least 5, so that the default tests are quick."""
    return count if any(os.environ.get(variable) for variable in FULL_TIER) else max(count // 3, 5)
