"""From plain config data to typed objects: the one place that instantiates.

The annotations of a ``_target_`` (a dataclass, as a rule) are its schema; its ``__post_init__`` checks the ranges.
So a user's own class is validated like ours, and no schema is written twice. Every error is one line that names the
key, the value and what is allowed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pydantic

from pipeline.errors import ConfigError, did_you_mean

OWN_PACKAGES = frozenset({"engine", "pipeline"})
EXPECTED = {
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "missing": "is missing",
}


def instantiate(kind: Any, node: Any, key: str, trusted: Collection[str] | None = None) -> Any:
    """The object that ``node`` describes, of type ``kind``.

    Args:
        kind: the annotation to satisfy: a plain type, a dataclass, an abstract plug-in class, a Mapping of them, ...
        node: resolved config data: scalars, lists, dicts; a dict with ``_target_`` names a class or function.
        key: where it stands in the config, for messages.
        trusted: top-level packages whose targets may be called; None for all (a config of the user's own making).

    Raises:
        ConfigError: anything that does not fit.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if node is None and type(None) in arguments:
            return None
        rest = [a for a in arguments if a is not type(None) and get_origin(a) is not np.ndarray]  # arrays: Python only
        if len(rest) < len(arguments):
            return instantiate(rest[0] if len(rest) == 1 else Union[tuple(rest)], node, key, trusted)
    if isinstance(node, Mapping) and "_target_" in node:
        return _call_target(kind, node, key, trusted)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(node, Mapping):
            raise ConfigError(f"{key}={_show(node)}: must be a mapping of names to values")
        return {name: instantiate(arguments[1], value, f"{key}.{name}", trusted) for name, value in node.items()}
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        if not isinstance(node, Mapping):
            raise ConfigError(
                f"{key}={_show(node)}: must be a mapping with {', '.join(inspect.signature(kind).parameters)}"
            )
        return _call(kind, kind, node, key, trusted)
    if inspect.isabstract(kind) or origin is Callable:
        raise ConfigError(f"{key}={_show(node)}: must name an option of its group, a mapping with _target_")
    return _plain(kind, node, key)


def _plain(kind: Any, node: Any, key: str) -> Any:
    """A scalar or list of scalars, checked strictly: no text for numbers, no fractions for integers."""
    try:
        return _frozen(pydantic.TypeAdapter(kind).validate_json(json.dumps(node), strict=True))
    except pydantic.ValidationError as invalid:
        first = invalid.errors()[0]
        if get_origin(kind) is Literal:
            hint = did_you_mean(str(node), [str(a) for a in get_args(kind)])
            raise ConfigError(f"{key}={_show(node)}: not an option{hint}") from None
        where = "".join(f"[{part}]" for part in first["loc"])
        expected = EXPECTED.get(first["type"], first["msg"])
        raise ConfigError(f"{key}{where}={_show(first['input'] if where else node)}: {expected}") from None
    except (ValueError, TypeError, RecursionError) as unreadable:  # a number of thousands of digits, a date
        raise ConfigError(f"{key}: must be plain data ({one_line(unreadable)[:100]})") from None


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that what is built can be hashed and cannot be changed."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _call_target(kind: Any, node: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> Any:
    path, place = str(node["_target_"]), f"{key}._target_".lstrip(".")
    target = import_target(path, place, trusted)
    if trusted is not None and path.partition(".")[0] in OWN_PACKAGES:
        _check_part(target, kind, f"{place}={path}")
    expected = kind if isinstance(kind, type) else get_origin(kind)
    if isinstance(expected, type) and isinstance(target, type) and not issubclass(target, expected):
        raise ConfigError(f"{place}={path}: must be {_described(expected)}")
    rest = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    if expected is Callable and bool(node.get("_partial_", False)) == isinstance(target, type):
        raise ConfigError(f"{place}={path}: add _partial_: true for a function, and only for a function")
    if node.get("_partial_", False):
        if expected is not Callable:
            raise ConfigError(f"{place}={path}: must be {_described(expected)}, without _partial_")
        return _partial(target, kind, rest, key, trusted)
    result = _call(target, kind, rest, key, trusted)
    if isinstance(expected, type) and not isinstance(result, expected):
        raise ConfigError(f"{key}._target_={node['_target_']}: must be {_described(expected)}")
    return result


def _partial(target: Any, kind: Any, node: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> Any:
    """The function with these arguments filled in, so that as many are left as ``kind`` (a Callable) has."""
    arguments = _arguments(target, node, key, trusted)
    missing = [None] * len(get_args(kind)[0])
    try:
        inspect.signature(target).bind(*missing, **arguments)
    except TypeError as wrong:
        raise ConfigError(f"{key}: {target.__name__} must take {len(missing)} argument ({one_line(wrong)})") from wrong
    return functools.partial(target, **arguments) if arguments else target


def _check_part(target: Any, kind: Any, what: str) -> None:
    """Check that a config that is not trusted names, of our own packages, only the parts that a key is made for.

    Raises:
        ConfigError: a class of another kind, such as one that writes a file, or a function that is no probe.
    """
    expected = kind if isinstance(kind, type) else get_origin(kind)
    if expected is Callable:
        fits = hasattr(target, "traits")  # what declares a probe
    else:
        fits = isinstance(expected, type) and isinstance(target, type) and issubclass(target, expected)
    if not fits:
        raise ConfigError(f"{what}: must be {_described(expected)}")


def _call(target: Any, kind: Any, node: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> Any:
    """``target(**node)``, its arguments constructed by the annotations of its parameters."""
    parameters = inspect.signature(target).parameters
    prefix = f"{key}." if key else ""
    arguments = _arguments(target, node, key, trusted)
    absent = [n for n, p in parameters.items() if p.default is p.empty and n not in node]
    if absent:
        raise ConfigError(f"{prefix}{absent[0]}: is missing")
    try:
        return target(**arguments)
    except ValueError as wrong:
        raise ConfigError(f"{prefix}{one_line(wrong)}") from wrong


def _arguments(target: Any, node: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> dict[str, Any]:
    """The arguments in ``node``, constructed by the annotations of the target's parameters."""
    parameters = inspect.signature(target).parameters
    prefix = f"{key}." if key else ""
    for name in node:
        if name not in parameters:
            raise ConfigError(f"{prefix}{name}: unknown key{did_you_mean(str(name), parameters)}")
    hints = get_type_hints(vars(target).get("__init__", target) if isinstance(target, type) else target)
    return {n: instantiate(hints.get(n, Any), v, f"{prefix}{n}", trusted) for n, v in node.items()}


def import_target(path: str, key: str, trusted: Collection[str] | None) -> Any:
    """The class or function with this dotted path.

    Only its own package may be entered: ``engine.arrays.np.save`` is not something of ``engine``.

    Raises:
        ConfigError: not importable, not a class or function, or not from a trusted package.
    """
    module_name, _, name = path.rpartition(".")
    package = path.partition(".")[0]
    if not package or not module_name or ".." in path:
        raise ConfigError(f"{key}={path}: must be the dotted path of a class or function, such as package.module.Name")
    if trusted is not None and package not in trusted:
        raise ConfigError(f"{key}={path}: package {package!r} is not allowed{did_you_mean(package, trusted)}")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, SyntaxError) as failure:
        raise ConfigError(f"{key}={path}: cannot import {module_name or path!r} ({one_line(failure)})") from failure
    found = getattr(module, name, None)
    if found is None:
        raise ConfigError(f"{key}={path}: {module_name} has no {name}{did_you_mean(name, _plugins(module))}")
    if not (inspect.isclass(found) or inspect.isfunction(found)) or inspect.isabstract(found):
        raise ConfigError(f"{key}={path}: must be a class or a function that can be called")
    if found.__module__.partition(".")[0] != package:
        raise ConfigError(f"{key}={path}: defined in {found.__module__}, name it there")
    return found


def _plugins(module: types.ModuleType) -> list[str]:
    return [
        n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__ and n[0] != "_"
    ]


def _described(expected: Any) -> str:
    if expected is Callable:
        return "a probe"
    name = getattr(expected, "__name__", "part of a config")
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _show(value: Any) -> str:
    return (
        json.dumps(value, default=str)
        if isinstance(value, (Mapping, Sequence, type(None), bool)) and not isinstance(value, str)
        else str(value)
    )


def one_line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())
