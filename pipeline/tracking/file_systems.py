"""Whether a folder is on a network file system, and what that means for a store."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.tracking.uri import database_path

MOUNTS = Path("/proc/self/mounts")
NETWORK = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "glusterfs", "orangefs", "afs", "9p", "panfs"),
    *("wekafs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs"),
}


def check_shareable(uri: str, mounts: Path = MOUNTS) -> None:
    """Check that several machines can write to a store at the same time.

    Args:
        uri: The store's resolved URI.
        mounts: The system's table of mounted file systems.

    Raises:
        ConfigError: The store is an SQLite file on a network file system, whose locks SQLite cannot rely on.
    """
    path = database_path(uri)
    if path is not None and is_on_network(path, mounts):
        raise ConfigError(
            f"tracking.uri={uri}: an SQLite file on a network file system is not safe for several machines; "
            "allowed: the address of a tracking server (tracking=server tracking.uri=http://HOST:PORT)"
        )


def is_on_network(path: Path, mounts: Path = MOUNTS) -> bool:
    """Return whether a file or folder is on a network file system; False where the system does not say."""
    try:
        rows = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return False
    path = path.resolve()
    mounted = [(row[1].replace("\\040", " "), row[2]) for row in rows if len(row) > 2]
    holding = [(len(folder), kind) for folder, kind in reversed(mounted) if path.is_relative_to(folder)]
    return max(holding, default=(0, ""), key=lambda pair: pair[0])[1] in NETWORK
