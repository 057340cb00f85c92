"""Prepared data in files that several processes map into memory, so that only one process prepares them."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.prepared import Data

MOST_BYTES = 4 * 2**30  # of all files of a command
ARRAYS = ("x", "y", "train", "validation", "test")
log = logging.getLogger("gradvitals")


@dataclass(frozen=True)
class DataFiles:
    """A folder with the arrays of prepared data. It is cheap to send to another process.

    Attributes:
        folder: The folder; it holds one ``.npy`` file for each array.
        classes: Number of classes, or None for a regression.
        digest: SHA-256 of the source's tables.
    """

    folder: Path
    classes: int | None
    digest: str

    def open(self) -> Data | None:
        """Map the arrays into memory, read-only; None if the files are gone or damaged."""
        try:
            arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in ARRAYS}
        except (OSError, ValueError, EOFError) as unreadable:
            log.info("prepared data are read from their source: %s", unreadable)
            return None
        return Data(**arrays, classes=self.classes, digest=self.digest)

    def remove(self) -> None:
        """Remove these files and all others of the same command. Arrays that are mapped stay readable."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)


class SharedData:
    """Writes prepared data to files, each once, as long as they fit.

    Args:
        folder: The folder of all files.
        most_bytes: Bytes of all files. Data beyond them are not written.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._bytes_left = most_bytes
        self._files: dict[Hashable, DataFiles | None] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Return whether data with this key were written, or refused."""
        return key in self._files

    def files(self, key: Hashable) -> DataFiles | None:
        """Return the files of the data with this key; None if they were not written."""
        return self._files.get(key)

    def write(self, key: Hashable, data: Data) -> None:
        """Write data, unless the disk or the bound has no room for them."""
        final = self._folder / f"data-{len(self._files)}"
        self._files[key] = None
        if data.nbytes > self._bytes_left:
            return
        partial = final.with_suffix(".part")
        try:
            partial.mkdir()
            for name in ARRAYS:
                np.save(partial / f"{name}.npy", getattr(data, name))
            partial.rename(final)
        except OSError as refused:
            self._bytes_left = 0
            log.info("each process prepares its own data: %s", refused)
            shutil.rmtree(partial, ignore_errors=True)
            return
        self._bytes_left -= data.nbytes
        self._files[key] = DataFiles(final, data.classes, data.digest)


@contextmanager
def shared_data(most_bytes: int = MOST_BYTES) -> Iterator[SharedData]:
    """Share data through a temporary folder, which is removed at the end.

    Args:
        most_bytes: Bytes of all files.
    """
    with tempfile.TemporaryDirectory(prefix="gradvitals-data-", ignore_cleanup_errors=True) as folder:
        yield SharedData(Path(folder), most_bytes)
