"""What MLflow and its databases accept as text. All texts of a run pass here before they are sent."""

from __future__ import annotations

import re
from collections.abc import Mapping

TAG_LENGTH, PARAM_LENGTH, NAME_LENGTH = 8000, 6000, 250  # characters
CUT = "\n\n… cut: the files of this run have all of it"
KEY = re.compile(r"(?![/.])[\w./\- :]{1,250}(?<![/.])")
PATH_STEPS = re.compile(r"//|/\.{1,2}/")  # MLflow refuses a key that is a path in another form


def storable(text: str, longest: int = TAG_LENGTH) -> str:
    """Return a text that a store accepts.

    Args:
        text: Any text.
        longest: The most characters that MLflow accepts.

    Returns:
        The text, cut to the length; the cut is marked. Half characters and NUL, which no database stores, are replaced.
    """
    text = text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT


def storable_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags that a store accepts."""
    return {key: storable(str(value)) for key, value in tags.items()}


def storable_params(params: Mapping[str, str]) -> dict[str, str]:
    """Return parameters that a store accepts. Those whose name MLflow refuses are left out: the config has them."""
    return {key: storable(value, PARAM_LENGTH) for key, value in params.items() if is_key(key)}


def storable_name(name: str) -> str:
    """Return the name of a run, cut to the length that MLflow accepts."""
    return storable(name)[:NAME_LENGTH]


def is_key(key: str) -> bool:
    """Return whether MLflow accepts the name of a parameter."""
    return KEY.fullmatch(key) is not None and PATH_STEPS.search(key) is None


def whole_texts(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are cut, as texts by file name."""
    names = {"mlflow.note.content": "description.md"}
    long = {key: str(value) for key, value in tags.items() if len(str(value)) > TAG_LENGTH}
    return {names.get(key, re.sub(r"[^\w.-]", "_", key) + ".txt"): value for key, value in long.items()}
