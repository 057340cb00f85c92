"""Bounds of YAML, and the checks of a config file that Hydra does not make: encoding, size, and its package line."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError

LONGEST_CONFIG = 1_000_000  # characters of one file
LONGEST_SCALAR = 10_000  # characters of one YAML value
MOST_NODES = 100_000  # YAML values in one file
DEEPEST = 40  # levels of YAML values
MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
PACKAGE_LINE = "# @package _global_"
HEADER = re.compile(r"(?:\s*(?:#\s*@.*)?\n)*?\s*#\s*@package\s+_global_\s*(?:\n|$)")


def check_config_file(path: Path, group: str) -> None:
    """Check a config file before Hydra reads it.

    Args:
        path: The file.
        group: Its group; an experiment must have its package line.

    Raises:
        ConfigError: The file cannot be read, is no UTF-8, is too large or too deep, or is an experiment that would be
            read as a key ``experiment``.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except OSError as failure:
        raise ConfigError(f"{path}: cannot be read ({failure.strerror})") from failure
    except UnicodeDecodeError as failure:
        raise ConfigError(f"{path}: must be UTF-8, without a byte-order mark") from failure
    if data.startswith(MARKS):
        raise ConfigError(f"{path}: starts with a byte-order mark; save it as UTF-8 without one")
    check_size(text, str(path))
    if group == "experiment" and not HEADER.match(text):
        raise ConfigError(f"{path}: its first line must be: {PACKAGE_LINE}")


def check_size(text: str, name: str) -> None:
    """Check that a YAML text is not too long, nor too deep or too large with its aliases expanded.

    Args:
        text: The YAML text. One that is no YAML is not refused here.
        name: The file's name, for messages.

    Raises:
        ConfigError: The text is too long, too deep or too large.
    """
    if len(text) > LONGEST_CONFIG:
        raise ConfigError(f"{name}: {len(text)} characters; at most {LONGEST_CONFIG} are read")
    try:
        _count(yaml.compose(text, Loader=yaml.SafeLoader), name, 0, 0)
    except RecursionError as failure:
        raise ConfigError(f"{name}: more than {MOST_NODES} values or {DEEPEST} levels") from failure
    except (yaml.YAMLError, ValueError, OverflowError):
        return


def _count(node: Any, name: str, depth: int, before: int) -> int:
    """Return the number of nodes up to the end of this one, with every alias expanded."""
    count = before + 1
    if count > MOST_NODES or depth > DEEPEST:
        raise ConfigError(f"{name}: more than {MOST_NODES} values or {DEEPEST} levels")
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > LONGEST_SCALAR:
            raise ConfigError(f"{name}: a value of {len(node.value)} characters; at most {LONGEST_SCALAR} are read")
        return count
    for child in node.value if node is not None else ():
        for part in child if isinstance(child, tuple) else (child,):
            count = _count(part, name, depth + 1, count)
    return count
