"""Explain in one line why Hydra cannot compose a config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline.config.suggestions import NEEDED, meant_key, similar_key
from pipeline.errors import ConfigError, did_you_mean
from pipeline.paths import CONF
from pipeline.wording import command

COMPLAINTS = (
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    UserWarning,
    RecursionError,
    OSError,
)
LONGEST_SHOWN = 100  # characters of an override in a message


@contextmanager
def in_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """Raise a ConfigError of one line for any error of Hydra, OmegaConf or YAML.

    Args:
        overrides: The overrides being composed.

    Raises:
        ConfigError: The explanation.
    """
    try:
        yield
    except COMPLAINTS as complaint:
        raise ConfigError(explain(str(complaint), overrides)) from complaint


def explain(text: str, overrides: Sequence[str]) -> str:
    """Return Hydra's message in one line, with the allowed values.

    Args:
        text: Hydra's message.
        overrides: The overrides being composed.
    """
    if unreadable := [o for o in overrides if _is_unreadable(o)]:
        first = shortened(unreadable[0])
        return f"{first}: cannot be read as key=value (Hydra's override grammar; quote special characters)"
    if text.startswith("Config group override must be") or text.endswith("is not iterable"):
        return next((line for o in overrides if _fails_alone(o) and (line := _options(o))), text)
    option = re.search(r"(?:Could not find|Could not load) '(?P<group>[^']+)/(?P<name>[^'/]*)'", text)
    options = re.search(r"Available options in '[^']+':\n(.*)", text, re.S)
    if option and options:
        names = [line.strip() for line in options[1].splitlines() if line.startswith("\t") and "=" not in line]
        return f"{option['group']}={option['name']}: no such option{did_you_mean(option['name'], names)}"
    place = re.search(r"full_key: (\S+)", text)
    if re.match(r"Multiple values for |force-add of config groups", text):
        added = next((o for o in overrides if o.startswith("+")), "")
        return f"{added}: this group is in the config already; write {added.lstrip('+')}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(place[1] if place else match[1], overrides)
    if match := re.search(r"Could not delete from config. '([^']+)'", text):
        return _unknown_key(match[1], overrides)
    if match := re.search(r"Ambiguous value for argument '([^'=]+)=", text):
        return (
            f"{match[1]}: several values make a sweep, not a run (use {command('sweep')}, or quote them to make a list)"
        )
    if match := re.search(r"Error resolving interpolation '([^']+)'", text):
        return f"{match[1]}: cannot be resolved in the defaults list"
    if place:
        return f"{shortened(place[1])}: {text.splitlines()[0]}"
    culprit = next((f"{shortened(o)}: " for o in overrides if _fails_alone(o)), "")
    problem = " ".join(line.strip() for line in text.splitlines()[:2]).strip()
    return culprit + (shortened(problem, 500) or "the config cannot be composed")


def _is_unreadable(override: str) -> bool:
    try:
        return not OverridesParser.create().parse_override(override).key_or_group
    except COMPLAINTS:
        return True


def shortened(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return the start of a text of more than ``longest`` characters."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def _fails_alone(override: str) -> bool:
    try:
        compose("config", overrides=[override])
    except COMPLAINTS:
        return True
    return False


def _options(override: str) -> str | None:
    """Return the allowed options if the override gives a group something that is not a name."""
    group = OverridesParser.create().parse_override(override).key_or_group
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    return f"{override}: must name an option of the group (allowed: {', '.join(options)})" if options else None


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """Name the first part of a dotted key that does not exist, and its siblings that do."""
    rest = tuple(o for o in overrides if o.lstrip("+~").partition("=")[0] != key)
    try:
        raw_config = _unresolved(rest)
    except COMPLAINTS:
        raw_config = _unresolved(())
    whole = raw_config
    group, at, package = key.partition("@")
    place = package if at else group
    siblings: set[str] = set()
    for part in place.split("."):
        siblings = set(raw_config) if isinstance(raw_config, dict) else set()
        if part not in siblings:
            break
        raw_config = raw_config[part]
    else:
        return f"{key}: cannot be overridden like this; to add an entry, write +{key}=..."
    if part == place:
        siblings |= {p.name for p in CONF.iterdir() if p.is_dir()}
    allowed = siblings - {"_target_"}
    meant = meant_key(place, whole) if place.endswith(part) or place in NEEDED else None
    hint = did_you_mean(part, allowed, meant)
    if "did you mean" not in hint:
        hint = did_you_mean(part, allowed, similar_key(place, whole))
    return f"{key}: unknown key {part!r}{hint}" + ("" if allowed else f"; to add it, write +{key}")


@lru_cache(maxsize=8)
def _unresolved(overrides: tuple[str, ...]) -> Any:
    return OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=False)
