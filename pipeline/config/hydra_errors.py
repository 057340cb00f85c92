"""Explain in one line why Hydra cannot compose a config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline.errors import ConfigError, did_you_mean
from pipeline.paths import CONF

COMPLAINTS = (
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    UserWarning,
)


@contextmanager
def in_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """Raise a ConfigError of one line for whatever Hydra, OmegaConf or YAML complain about."""
    try:
        yield
    except COMPLAINTS as complaint:
        raise ConfigError(explain(str(complaint), overrides)) from complaint


def explain(text: str, overrides: Sequence[str]) -> str:
    """Hydra's paragraphs in one line, with what would have been allowed."""
    if bad := [o for o in overrides if _unreadable(o)]:
        return f"{bad[0]}: cannot be read as key=value (Hydra's override grammar; quote special characters)"
    if text.startswith("Config group override must be") or text.endswith("is not iterable"):
        return next((told for o in overrides if _alone_fails(o) and (told := _options(o))), text)
    found = re.search(r"(?:Could not find|Could not load) '(?P<group>[^']+)/(?P<option>[^'/]*)'", text)
    options = re.search(r"Available options in '[^']+':\n(.*)", text, re.S)
    if found and options:
        names = [line.strip() for line in options[1].splitlines() if line.startswith("\t") and "=" not in line]
        return f"{found['group']}={found['option']}: no such option{did_you_mean(found['option'], names)}"
    place = re.search(r"full_key: (\S+)", text)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(place[1] if place else found[1], overrides)
    if found := re.search(r"Could not delete from config. '([^']+)'", text):
        return _unknown_key(found[1], overrides)
    if found := re.search(r"Ambiguous value for argument '([^'=]+)=", text):
        return f"{found[1]}: several values make a sweep, not a run (use make sweep, or quote them to make a list)"
    if found := re.search(r"Error resolving interpolation '([^']+)'", text):
        return f"{found[1]}: cannot be resolved in the defaults list"
    if place:
        return f"{place[1]}: {text.splitlines()[0]}"
    culprit = next((f"{o}: " for o in overrides if _alone_fails(o)), "")
    return culprit + (
        " ".join(line.strip() for line in text.splitlines()[:2]).strip() or "the config cannot be composed"
    )


def _unreadable(override: str) -> bool:
    try:
        return not OverridesParser.create().parse_override(override).key_or_group
    except HydraException:
        return True


def _alone_fails(override: str) -> bool:
    try:
        compose("config", overrides=[override])
    except COMPLAINTS:
        return True
    return False


def _options(override: str) -> str | None:
    """What is allowed, if the override gives a group something that is not a name."""
    group = OverridesParser.create().parse_override(override).key_or_group
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    return f"{override}: must name an option of the group (allowed: {', '.join(options)})" if options else None


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """The first part of a dotted key that does not exist, and its siblings that do."""
    kept = [o for o in overrides if o.lstrip("+~").partition("=")[0] != key]
    try:
        node: Any = OmegaConf.to_container(compose("config", overrides=kept), resolve=False)
    except COMPLAINTS:
        node = OmegaConf.to_container(compose("config"), resolve=False)
    group, at, package = key.partition("@")
    place = package if at else group
    siblings: set[str] = set()
    for part in place.split("."):
        siblings = set(node) if isinstance(node, dict) else set()
        if part not in siblings:
            break
        node = node[part]
    else:
        return f"{key}: cannot be overridden like this; to add an entry, write +{key}=..."
    if part == place:
        siblings |= {p.name for p in CONF.iterdir() if p.is_dir()}
    allowed = siblings - {"_target_"}
    return f"{key}: unknown key {part!r}{did_you_mean(part, allowed)}" + (
        "" if allowed else f"; to add it, write +{key}"
    )
