"""What differs between two configs, one line for each key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.schema import scientific


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old → new`` for each flat key on which numbers depend; the name and the tracking are left aside."""
    was, now = dict(_flat(scientific(old))), dict(_flat(scientific(new)))
    keys = [key for key in {**was, **now} if key not in was or key not in now or was[key] != now[key]]
    return [f"{key}: {_shown(was, key)} → {_shown(now, key)}" for key in keys] or ["the configs are the same"]


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted key; a class goes by its group's key: ``activation: engine.activations.Relu``."""
    for name, value in node.items():
        key = prefix if name == "_target_" else f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, key)
        else:
            yield key, value


def _shown(flat: Mapping[str, Any], key: str) -> str:
    if key not in flat:
        return "absent"
    text = "null" if flat[key] is None else str(flat[key])
    return text if len(text) <= 60 else f"{text[:59]}…"
