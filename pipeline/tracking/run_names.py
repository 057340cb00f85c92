"""Short names: MLflow shows about 13 characters of a run's name, so what differs comes first."""

from __future__ import annotations

from collections.abc import Mapping


def run_name(swept: Mapping[str, str], name: str | None) -> str:
    """'relu d20': chosen options as they are, numbers behind the initials of their key; else the config's name."""
    return " ".join(_short(key, value) for key, value in swept.items()) or name or "run"


def _short(key: str, value: str) -> str:
    last = key.split("@")[-1].rpartition(".")[2]
    try:
        float(value)
    except ValueError:
        return value.rpartition("/")[2]  # of a path, the file
    return "".join(word[0] for word in last.split("_")) + value


def short_key(key: str) -> str:
    """The part of a key that a table's head or an axis shows: 'depth' for 'architecture.depth'."""
    return key.split("@")[-1].rpartition(".")[2]
