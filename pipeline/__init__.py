"""Compose engine objects from a config, train, measure, track and replay. Nothing in ``engine`` knows of it.

``from pipeline import run`` imports :mod:`pipeline.api`, and with it all libraries; ``import pipeline`` alone imports
nothing. ``__init__.pyi`` has the types of the names.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = [
    "ConfigError",
    "Prescription",
    "Run",
    "RunError",
    "Sweep",
    "diagnose",
    "load",
    "prescribe",
    "run",
    "runs",
    "sweep",
]


class _Package(ModuleType):
    """The package. Its names are those of the Python interface; ``pipeline.runs`` is the function, not the wing."""

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("pipeline.api"), name)

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):  # as an import of the wing pipeline.runs sets it
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
