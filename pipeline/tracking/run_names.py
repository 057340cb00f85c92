"""Short names of runs. MLflow shows about 13 characters of a name, so the difference comes first."""

from __future__ import annotations

from collections.abc import Mapping


def run_name(swept: Mapping[str, str], name: str | None) -> str:
    """Return a run's name, such as "relu d20" or "layer_03 tanh".

    Args:
        swept: The swept keys and their values. Options stand as they are, after the part of the network that they are
            for if that is not their group; numbers stand after the initials of their key.
        name: The config's name, which is used if nothing is swept.

    Returns:
        The name.
    """
    return " ".join(_short(key, value) for key, value in swept.items()) or name or "run"


def _short(key: str, value: str) -> str:
    key = key.lstrip("+")
    last = short_key(key)
    if key.startswith("~"):
        return f"no {last}"
    try:
        float(value)
    except ValueError:
        return _option(key, value)
    return "".join(word[0] for word in last.split("_")) + value


def _option(key: str, value: str) -> str:
    option, last = value.rpartition("/")[2], short_key(key)  # the last part of a path
    if key == "probes":
        return f"probes {option.strip('[]').replace(',', '+')}"
    return f"{last} {option}" if "@" in key and option != last else option


def short_key(key: str) -> str:
    """Return the part of a key that a table or an axis shows, such as "depth" for "architecture.depth"."""
    return key.split("@")[-1].rpartition(".")[2]
