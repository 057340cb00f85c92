"""Short names of runs. MLflow shows about 13 characters of a name, so the difference comes first."""

from __future__ import annotations

from collections.abc import Mapping


def run_name(swept: Mapping[str, str], name: str | None) -> str:
    """Return a run's name, such as "relu d20".

    Args:
        swept: The swept keys and their values. Options stand as they are, numbers after the initials of their key.
        name: The config's name, which is used if nothing is swept.

    Returns:
        The name.
    """
    return " ".join(_short(key, value) for key, value in swept.items()) or name or "run"


def _short(key: str, value: str) -> str:
    last = short_key(key)
    try:
        float(value)
    except ValueError:
        return value.rpartition("/")[2]  # the last part of a path
    return "".join(word[0] for word in last.split("_")) + value


def short_key(key: str) -> str:
    """Return the part of a key that a table or an axis shows, such as "depth" for "architecture.depth"."""
    return key.split("@")[-1].rpartition(".")[2]
