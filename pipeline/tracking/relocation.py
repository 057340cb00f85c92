"""Artifact locations follow a store that was moved or copied, because MLflow records them as absolute paths."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import ConfigError
from pipeline.tracking.database import SIGNATURE, connect
from pipeline.tracking.uri import artifact_root, database_path

SUFFIX = "-artifacts"
COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def relocate_artifacts(uri: str) -> None:
    """Rewrite the recorded artifact locations of a SQLite store that was moved or copied with its artifacts.

    The artifacts of a store are in the folder ``STEM-artifacts`` next to its database. A recorded folder of that kind
    elsewhere is the old place of this store if it is gone, or if its own database is still next to it: then this
    database is a copy, which must not write there. All other locations are elsewhere on purpose and stay.

    Args:
        uri: The store's URI; a server passes.

    Raises:
        ConfigError: The database was copied without its artifacts.
        sqlite3.Error: The database cannot be read or written.
    """
    path = database_path(uri)
    if path is None:
        return
    root = artifact_root(path)
    with closing(connect(path)) as database:
        locations = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for old in {head for (location,) in locations if (head := _old_root(location or "", root))}:
            if _folder(old).exists() and not root.exists():
                raise ConfigError(
                    f"tracking.uri={uri}: is a copy of a store without its artifacts; copy {_folder(old)} to {root}"
                )
            new = root.as_uri() if old.startswith("file:") else str(root)
            with database:
                for table, column in COLUMNS:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 (our own names)
                        f"WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )


def _old_root(location: str, root: Path) -> str | None:
    """Return the recorded folder of all artifacts that a location is in, if it is an old place of this store."""
    head, separator, rest = location.rpartition(f"{SUFFIX}/")
    old = f"{head}{SUFFIX}"
    if not separator or not old.startswith(("file:///", "/")):
        return None
    folder = _folder(old)
    if folder.resolve() == root:
        return None
    if folder.exists():
        return old if _has_database(folder) else None
    return old if folder.name == root.name or (root / unquote(rest)).exists() else None


def _folder(location: str) -> Path:
    return Path(unquote(location.removeprefix("file://"))) if location.startswith("file:") else Path(location)


def _has_database(folder: Path) -> bool:
    """Return whether the database that a folder of artifacts belongs to is next to it."""
    stem = folder.name.removesuffix(SUFFIX)
    for path in folder.parent.iterdir():
        if path.stem == stem and path.is_file():
            with path.open("rb") as file:
                if file.read(len(SIGNATURE)) == SIGNATURE:
                    return True
    return False
