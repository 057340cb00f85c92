"""Folders of the project, in a checkout or as an installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
PROJECT = _PACKAGE.parent  # the checkout, or the folder that the package is installed in
IS_CHECKOUT = (PROJECT / "pyproject.toml").is_file()
CONF = PROJECT / "conf" if IS_CHECKOUT else _PACKAGE / "conf"


def store_folder() -> Path:
    """Return the folder of the store that a config does not name: in the checkout, otherwise in the current folder."""
    return (PROJECT if IS_CHECKOUT else Path.cwd()) / "store"
