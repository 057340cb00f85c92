"""Instantiate typed objects from plain config data.

The annotations of a ``_target_`` (usually a dataclass) are its schema, and its ``__post_init__`` checks the ranges. A
user's own class is therefore validated like the built-in ones, and no schema is written twice. Every error is one line
that names the key, the value and the allowed values.
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

from pipeline.config.suggestions import meant_key
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


def instantiate(kind: Any, raw_config: Any, key: str, trusted: Collection[str] | None = None) -> Any:
    """Return the object of type ``kind`` that ``raw_config`` describes.

    Args:
        kind: The annotation to satisfy: a plain type, a dataclass, an abstract plug-in class, a Mapping of them, ...
        raw_config: Resolved config data: scalars, lists, dicts. A dict with ``_target_`` names a class or function.
        key: Its key in the config, for messages.
        trusted: Top-level packages whose targets may be called; None for all (a config that the user composed).

    Raises:
        ConfigError: The data do not fit the type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if raw_config is None and type(None) in arguments:
            return None
        rest = [a for a in arguments if a is not type(None) and not _is_array(a)]  # arrays: Python only
        if len(rest) < len(arguments):
            return instantiate(rest[0] if len(rest) == 1 else Union[tuple(rest)], raw_config, key, trusted)
    if isinstance(raw_config, Mapping) and "_target_" in raw_config:
        return _call_target(kind, raw_config, key, trusted)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(raw_config, Mapping):
            raise ConfigError(f"{key}={_show(raw_config)}: must be a mapping of names to values")
        return {name: instantiate(arguments[1], value, f"{key}.{name}", trusted) for name, value in raw_config.items()}
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        if not isinstance(raw_config, Mapping):
            raise ConfigError(
                f"{key}={_show(raw_config)}: must be a mapping with {', '.join(inspect.signature(kind).parameters)}"
            )
        return _call(kind, kind, raw_config, key, trusted)
    if inspect.isabstract(kind) or origin is Callable:
        raise ConfigError(f"{key}={_show(raw_config)}: must name an option of its group, a mapping with _target_")
    return _plain(kind, raw_config, key)


def _is_array(annotation: Any) -> bool:
    """Return whether an annotation is NDArray[...], an alias of NumPy 2.4 or a type statement of NumPy 2.5."""
    origin = get_origin(annotation)
    return get_origin(getattr(origin, "__value__", annotation)) is np.ndarray


def _plain(kind: Any, raw_config: Any, key: str) -> Any:
    """Return a scalar or list of scalars, checked strictly: no text for numbers, no fractions for integers."""
    try:
        return _frozen(_adapter(kind).validate_json(json.dumps(raw_config), strict=True))
    except pydantic.ValidationError as invalid:
        first = invalid.errors()[0]
        if get_origin(kind) is Literal:
            hint = did_you_mean(str(raw_config), [str(a) for a in get_args(kind)])
            raise ConfigError(f"{key}={_show(raw_config)}: not an option{hint}") from None
        where = "".join(f"[{part}]" for part in first["loc"])
        expected = EXPECTED.get(first["type"], first["msg"])
        raise ConfigError(f"{key}{where}={_show(first['input'] if where else raw_config)}: {expected}") from None
    except (ValueError, TypeError, RecursionError) as unreadable:  # a number of thousands of digits, a date
        raise ConfigError(f"{key}: must be plain data ({one_line(unreadable)[:100]})") from None


@functools.lru_cache(maxsize=256)
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, so that the object can be hashed and cannot be changed."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _call_target(kind: Any, raw_config: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> Any:
    path, place = str(raw_config["_target_"]), f"{key}._target_".lstrip(".")
    target = import_target(path, place, trusted)
    if trusted is not None and path.partition(".")[0] in OWN_PACKAGES:
        _check_part(target, kind, f"{place}={path}")
    expected = kind if isinstance(kind, type) else get_origin(kind)
    if isinstance(expected, type) and isinstance(target, type) and not issubclass(target, expected):
        raise ConfigError(f"{place}={path}: must be {_described(expected)}")
    rest = {k: v for k, v in raw_config.items() if k not in ("_target_", "_partial_")}
    if expected is Callable and bool(raw_config.get("_partial_", False)) == isinstance(target, type):
        raise ConfigError(f"{place}={path}: add _partial_: true for a function, and only for a function")
    if raw_config.get("_partial_", False):
        if expected is not Callable:
            raise ConfigError(f"{place}={path}: must be {_described(expected)}, without _partial_")
        return _partial(target, kind, rest, key, trusted)
    result = _call(target, kind, rest, key, trusted)
    if isinstance(expected, type) and not isinstance(result, expected):
        raise ConfigError(f"{key}._target_={raw_config['_target_']}: must be {_described(expected)}")
    return result


def _partial(target: Any, kind: Any, raw_config: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> Any:
    """Return the function with these arguments bound. The rest must be as many as ``kind`` (a Callable) has."""
    arguments = _arguments(target, raw_config, key, trusted)
    missing = [None] * len(get_args(kind)[0])
    try:
        inspect.signature(target).bind(*missing, **arguments)
    except TypeError as wrong:
        raise ConfigError(f"{key}: {target.__name__} must take {len(missing)} argument ({one_line(wrong)})") from wrong
    return functools.partial(target, **arguments) if arguments else target


def _check_part(target: Any, kind: Any, what: str) -> None:
    """Check that an untrusted config names only the kind of part that its key is for.

    Raises:
        ConfigError: A class of another kind, such as one that writes a file, or a function that is not a probe.
    """
    expected = kind if isinstance(kind, type) else get_origin(kind)
    if expected is Callable:
        fits = hasattr(target, "traits")  # the mark of a probe
    else:
        fits = isinstance(expected, type) and isinstance(target, type) and issubclass(target, expected)
    if not fits:
        raise ConfigError(f"{what}: must be {_described(expected)}")


def _call(target: Any, kind: Any, raw_config: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> Any:
    """Call the target with the arguments in ``raw_config``."""
    parameters = _parameters(target)
    prefix = f"{key}." if key else ""
    arguments = _arguments(target, raw_config, key, trusted)
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in raw_config]
    if missing:
        raise ConfigError(f"{prefix}{missing[0]}: is missing")
    try:
        return target(**arguments)
    except ValueError as wrong:
        raise ConfigError(f"{prefix}{one_line(wrong)}") from wrong


def _arguments(target: Any, raw_config: Mapping[str, Any], key: str, trusted: Collection[str] | None) -> dict[str, Any]:
    """Instantiate the arguments in ``raw_config`` by the annotations of the target's parameters."""
    parameters = _parameters(target)
    prefix = f"{key}." if key else ""
    for name in raw_config:
        if name not in parameters:
            meant = meant_key(f"{prefix}{name}") or ""
            hint = did_you_mean(str(name), parameters, meant if meant.startswith(prefix) and meant else None)
            raise ConfigError(f"{prefix}{name}: unknown key{hint}")
    hints = _annotations(target)
    return {n: instantiate(hints.get(n, Any), v, f"{prefix}{n}", trusted) for n, v in raw_config.items()}


# Reading a signature takes 0.2 ms, as long as all else about a part. The cells of a sweep have the same parts.
@functools.lru_cache(maxsize=256)
def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(target).parameters


@functools.lru_cache(maxsize=256)
def _annotations(target: Any) -> Mapping[str, Any]:
    return get_type_hints(vars(target).get("__init__", target) if isinstance(target, type) else target)


def import_target(path: str, key: str, trusted: Collection[str] | None) -> Any:
    """Return the class or function with this dotted path.

    It must be defined in the package that the path names: ``engine.arrays.np.save`` does not belong to ``engine``.

    Args:
        path: The dotted path.
        key: The key in the config, for messages.
        trusted: Top-level packages that are allowed; None for all.

    Raises:
        ConfigError: The path is not importable, not a class or function, or not in a trusted package.
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
    target = getattr(module, name, None)
    if target is None:
        raise ConfigError(f"{key}={path}: {module_name} has no {name}{did_you_mean(name, _plugins(module))}")
    if not (inspect.isclass(target) or inspect.isfunction(target)) or inspect.isabstract(target):
        raise ConfigError(f"{key}={path}: must be a class or a function that can be called")
    if target.__module__.partition(".")[0] != package:
        raise ConfigError(f"{key}={path}: defined in {target.__module__}, name it there")
    return target


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
    """Return an error's text on one line."""
    return " ".join(str(error).split())
