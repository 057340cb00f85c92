"""The differences between two configs, one line per key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.schema import scientific


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return ``key: old → new`` for each flat key that differs in the scientific part of two configs.

    Args:
        old: A resolved config.
        new: Another resolved config.
    """
    before, after = dict(_flatten(scientific(old))), dict(_flatten(scientific(new)))
    keys = [key for key in {**before, **after} if key not in before or key not in after or before[key] != after[key]]
    return [f"{key}: {_text(before, key)} → {_text(after, key)}" for key in keys] or ["the configs are the same"]


def _flatten(raw_config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield leaves by dotted key. A class has the key of its group: ``activation: engine.activations.Relu``."""
    for name, value in raw_config.items():
        key = prefix if name == "_target_" else f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from _flatten(value, key)
        else:
            yield key, value


def _text(flat: Mapping[str, Any], key: str) -> str:
    if key not in flat:
        return "absent"
    text = "null" if flat[key] is None else str(flat[key])
    return text if len(text) <= 60 else f"{text[:59]}…"
