"""The manifest of an exported folder: every file with its size and SHA-256, and a digest of all of that.

Users know the manifest's digest as the *seal*: ``export`` prints it, ``verify`` and ``import`` accept it, and the file
stores it under that key. A person who can change the folder can also write a new manifest with a new seal. Compare the
seal with a copy that did not come with the folder, such as one from a mail or a paper.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from pipeline.errors import ConfigError
from pipeline.reproducibility.hash_chain import CHAIN_FILE
from pipeline.tracking.safe_reading import LONGEST_TEXT, printable, read_text
from pipeline.tracking.tags import (
    CONFIG_FILE,
    DIVERGENCE_FILE,
    FIGURE_FILE,
    LAST_STEPS_FILE,
    PACKAGES_FILE,
    PATCH_FILE,
    PROVENANCE_FILE,
    RECORDS_FILE,
    THEORY_FILE,
    VERDICT_FILE,
)
from pipeline.training.parameter_file import PARAMETERS_FILE

FORMAT = 1
MANIFEST_FILE, RUN_FILE, SWEEP_FILE = "manifest.json", "run.json", "sweep.json"
METRICS_FILE, TABLE_FILE, REPORT_FILE, RUNS = "metrics.parquet", "sweep.csv", "report.html", "runs"
OLDER_FIGURES = ("delta_rms_layer_by_step.png", "gradient_norm_layer_by_step.png")  # of runs of older versions
RUN_FIGURES = (FIGURE_FILE, *OLDER_FIGURES)
SWEEP_FIGURES = ("sweep.png", "profiles.png", "figure.png")
TEXTS = (THEORY_FILE, DIVERGENCE_FILE, PACKAGES_FILE, PATCH_FILE, PROVENANCE_FILE, VERDICT_FILE)
TABLES = (RECORDS_FILE, CHAIN_FILE, LAST_STEPS_FILE)
ARTIFACTS = (*TEXTS, *TABLES, PARAMETERS_FILE, *RUN_FIGURES)  # copied unchanged; a run may lack some of them
RUN_NAMES = frozenset({RUN_FILE, CONFIG_FILE, METRICS_FILE, REPORT_FILE, MANIFEST_FILE, *ARTIFACTS})
SWEEP_NAMES = frozenset({SWEEP_FILE, TABLE_FILE, REPORT_FILE, MANIFEST_FILE, *SWEEP_FIGURES})
RUN_ID = re.compile(r"[0-9a-f]{32}")
BLOCK_SIZE = 1 << 20  # bytes
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Text = Annotated[str, pydantic.Field(max_length=10_000)]
RunId = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, pydantic.Field(ge=0, le=2**50)]
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """The SHA-256 and the size of a file, in bytes."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    sha256: Digest
    size: Size


@dataclass(frozen=True)
class Manifest:
    """All files of a folder except the manifest itself.

    Attributes:
        kind: What was exported.
        id: The run's or the sweep's id.
        chain_head: The head of a run's chain; None without a chain.
        files: Files by their path in the folder, with "/".
        manifest_digest: SHA-256 of everything above; the key "seal" in the file.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    format: int
    kind: Literal["run", "sweep"]
    id: Text
    chain_head: Text | None
    files: dict[Text, Entry]
    manifest_digest: Annotated[Digest, pydantic.Field(alias="seal")]

    @classmethod
    def from_folder(
        cls, folder: Path, kind: Literal["run", "sweep"], name: str, chain_head: str | None = None
    ) -> Manifest:
        """Compute the manifest of a folder's present files.

        Args:
            folder: The folder; a manifest in it is ignored.
            kind: What was exported.
            name: The run's or the sweep's id.
            chain_head: The head of a run's chain.
        """
        files = {path: read_entry(folder / path) for path in sorted(plain_files(folder)) if path != MANIFEST_FILE}
        facts = {"format": FORMAT, "kind": kind, "id": name, "chain_head": chain_head}
        digest = digest_of({**facts, "files": {path: asdict(entry) for path, entry in files.items()}})
        return cls(FORMAT, kind, name, chain_head, files, digest)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the folder's manifest and check its digest.

        Raises:
            ConfigError: There is none, it has another format, or it was changed.
        """
        path = folder / MANIFEST_FILE
        if path.is_symlink() or not path.is_file():
            raise ConfigError(f"FROM={folder}: has no {MANIFEST_FILE}; is it a folder that export wrote?")
        manifest = parse_json(cls, path)
        if manifest.format != FORMAT:
            raise ConfigError(f"{MANIFEST_FILE}: format={manifest.format}: unsupported; allowed: {FORMAT}")
        if manifest.text() != path.read_bytes() or manifest.manifest_digest != digest_of(manifest.content()):
            raise ConfigError(f"{MANIFEST_FILE}: was changed; its seal does not match its content")
        return manifest

    def content(self) -> dict[str, Any]:
        """Return everything that the digest covers, as plain data."""
        return {key: value for key, value in asdict(self).items() if key != "manifest_digest"}

    def text(self) -> bytes:
        """Return the only valid file content of this manifest."""
        return json_bytes({**self.content(), "seal": self.manifest_digest})


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return JSON in a canonical form."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode("ascii")


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content."""
    return hashlib.sha256(json_bytes(content)).hexdigest()


def parse_json(kind: type[T], path: Path) -> T:
    """Read a JSON file as a dataclass; every key and type is checked.

    Args:
        kind: The dataclass.
        path: The file.

    Raises:
        ConfigError: The file does not hold such an object.
    """
    text = read_text(path, LONGEST_TEXT)
    try:
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = printable(".".join(str(part) for part in first["loc"]))
        raise ConfigError(f"{path.name}: {f'{place}: ' if place else ''}{printable(first['msg'], 200)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path.name}: is nested too deeply") from error


def is_allowed(path: str, kind: str) -> bool:
    """Return whether an export of this kind may contain a file at this path."""
    if kind == "run":
        return path in RUN_NAMES
    top, _, rest = path.partition("/")
    run, _, name = rest.partition("/")
    return path in SWEEP_NAMES or (top == RUNS and bool(RUN_ID.fullmatch(run)) and name in RUN_NAMES)


def plain_files(folder: Path, below: str = "") -> Iterator[str]:
    """Yield the paths of all files in a folder.

    Args:
        folder: The exported folder.
        below: The subfolder to list; "" for the folder itself.

    Raises:
        ConfigError: There is a link, a device, an empty subfolder or one that no export has.
    """
    with os.scandir(folder / below) as scan:
        entries = sorted(scan, key=lambda e: e.name)
    if not entries and below:
        raise ConfigError(f"{printable(below)}: is an empty folder, which no export has")
    for item in entries:
        path = f"{below}/{item.name}" if below else item.name
        mode = item.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            if path != RUNS and not (below == RUNS and RUN_ID.fullmatch(item.name)):
                raise ConfigError(f"{printable(path)}: is a folder that no export has")
            yield from plain_files(folder, path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            kind = "link" if stat.S_ISLNK(mode) else "special file"
            raise ConfigError(f"{printable(path)}: is a {kind}; allowed: plain files")


def read_entry(path: Path, copy_to: Path | None = None) -> Entry:
    """Return size and digest of a file, and optionally copy the bytes that were read.

    Args:
        path: The file.
        copy_to: Where to copy the file, so that the copy has this very digest.

    Raises:
        OSError: The file is not readable, or is a link.
    """
    sha, size = hashlib.sha256(), 0
    target = copy_to.open("wb") if copy_to else contextlib.nullcontext()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file, target as copy:
        while block := file.read(BLOCK_SIZE):
            sha.update(block)
            size += len(block)
            if copy is not None:
                copy.write(block)
    return Entry(sha.hexdigest(), size)


def is_png(path: Path) -> bool:
    """Return whether a file starts with the signature of a PNG."""
    with path.open("rb") as file:
        return file.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
