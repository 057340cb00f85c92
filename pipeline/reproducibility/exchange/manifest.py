"""What an exported folder says of itself: every file with its size and digest, and a seal over all of that.

The seal is the digest of the manifest. Whoever can write to the folder can write a new manifest with a new seal; so the
seal, told on another way (a mail, a paper), is what a folder from elsewhere is held against.
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
    LAST_STEPS_FILE,
    PACKAGES_FILE,
    PATCH_FILE,
    RECORDS_FILE,
    THEORY_FILE,
)

FORMAT = 1
MANIFEST_FILE, RUN_FILE, SWEEP_FILE = "manifest.json", "run.json", "sweep.json"
METRICS_FILE, TABLE_FILE, REPORT_FILE, RUNS = "metrics.parquet", "sweep.csv", "report.html", "runs"
RUN_FIGURES = ("gradient_norm_by_layer.png", "delta_rms_layer_by_step.png", "gradient_norm_layer_by_step.png")
SWEEP_FIGURES = ("sweep.png", "profiles.png", "figure.png")
TEXTS = (THEORY_FILE, DIVERGENCE_FILE, PACKAGES_FILE, PATCH_FILE)
TABLES = (RECORDS_FILE, CHAIN_FILE, LAST_STEPS_FILE)
ARTIFACTS = (*TEXTS, *TABLES, *RUN_FIGURES)  # taken as they are, as far as the run has them
RUN_NAMES = frozenset({RUN_FILE, CONFIG_FILE, METRICS_FILE, REPORT_FILE, MANIFEST_FILE, *ARTIFACTS})
SWEEP_NAMES = frozenset({SWEEP_FILE, TABLE_FILE, REPORT_FILE, MANIFEST_FILE, *SWEEP_FIGURES})
RUN_ID = re.compile(r"[0-9a-f]{32}")
BLOCK = 1 << 20
PNG = b"\x89PNG\r\n\x1a\n"

Text = Annotated[str, pydantic.Field(max_length=10_000)]
RunId = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, pydantic.Field(ge=0, le=2**50)]
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A file."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    sha256: Digest
    size: Size


@dataclass(frozen=True)
class Manifest:
    """All files of a folder but the manifest itself.

    Attributes:
        kind: what was exported.
        id: of the run or the sweep.
        chain_head: of a run that has a chain.
        files: by their path in the folder, with "/".
        seal: SHA-256 of all the rest.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    format: int
    kind: Literal["run", "sweep"]
    id: Text
    chain_head: Text | None
    files: dict[Text, Entry]
    seal: Digest

    @classmethod
    def of(cls, folder: Path, kind: Literal["run", "sweep"], name: str, chain_head: str | None = None) -> Manifest:
        """Of the files that are there now."""
        files = {path: entry(folder / path) for path in sorted(plain_files(folder)) if path != MANIFEST_FILE}
        unsealed = {"format": FORMAT, "kind": kind, "id": name, "chain_head": chain_head}
        told = {path: asdict(e) for path, e in files.items()}
        return cls(**unsealed, files=files, seal=seal_of({**unsealed, "files": told}))  # type: ignore[arg-type]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The folder's own.

        Raises:
            ConfigError: there is none, it is of another format, or not as it was written.
        """
        path = folder / MANIFEST_FILE
        if path.is_symlink() or not path.is_file():
            raise ConfigError(f"FROM={folder}: has no {MANIFEST_FILE}; is it a folder that `make export` wrote?")
        found = parsed(cls, path)
        if found.format != FORMAT:
            raise ConfigError(f"{MANIFEST_FILE}: format={found.format}: this version reads format {FORMAT}")
        if found.text() != path.read_bytes() or found.seal != seal_of(found.unsealed()):
            raise ConfigError(f"{MANIFEST_FILE}: was changed; it does not have its own seal")
        return found

    def unsealed(self) -> dict[str, Any]:
        """What the seal is of."""
        return {key: value for key, value in asdict(self).items() if key != "seal"}

    def text(self) -> bytes:
        """The file: there is one way to write a manifest."""
        return written(asdict(self))


def written(about: Mapping[str, Any]) -> bytes:
    """JSON, one way to write it."""
    return (json.dumps(about, indent=1, sort_keys=True) + "\n").encode("ascii")


def seal_of(unsealed: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its seal."""
    return hashlib.sha256(written(unsealed)).hexdigest()


def parsed(kind: type[T], path: Path) -> T:
    """A JSON file of ours as what it is said to be; every key and type is checked.

    Raises:
        ConfigError: it is something else.
    """
    text = read_text(path, LONGEST_TEXT)
    try:
        return pydantic.TypeAdapter(kind).validate_json(text, strict=True)
    except pydantic.ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        place = printable(".".join(str(part) for part in first["loc"]))
        raise ConfigError(f"{path.name}: {f'{place}: ' if place else ''}{printable(first['msg'], 200)}") from wrong
    except RecursionError as wrong:
        raise ConfigError(f"{path.name}: is nested too deeply") from wrong


def allowed(path: str, kind: str) -> bool:
    """Whether an export of this kind may have a file with this path: names are known ones, and nothing else."""
    if kind == "run":
        return path in RUN_NAMES
    top, _, rest = path.partition("/")
    run, _, name = rest.partition("/")
    return path in SWEEP_NAMES or (top == RUNS and bool(RUN_ID.fullmatch(run)) and name in RUN_NAMES)


def plain_files(folder: Path, below: str = "") -> Iterator[str]:
    """The paths of all files of a folder, which must be plain files in plain folders, none of them empty.

    Raises:
        ConfigError: a link, a device, a name that is no text, a folder in a folder that no export has.
    """
    with os.scandir(folder / below) as there:
        entries = sorted(there, key=lambda e: e.name)
    if not entries and below:
        raise ConfigError(f"{printable(below)}: is an empty folder, which is none of the export")
    for found in entries:
        path = f"{below}/{found.name}" if below else found.name
        mode = found.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            if path != RUNS and not (below == RUNS and RUN_ID.fullmatch(found.name)):
                raise ConfigError(f"{printable(path)}: is a folder that is none of the export")
            yield from plain_files(folder, path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            what = "link" if stat.S_ISLNK(mode) else "special file"
            raise ConfigError(f"{printable(path)}: is a {what}; an export has plain files only")


def entry(path: Path, copy_to: Path | None = None) -> Entry:
    """Size and digest of a file as it is read now, and a copy of the very bytes that were read.

    Raises:
        OSError: not readable, or a link.
    """
    sha, size = hashlib.sha256(), 0
    target = copy_to.open("wb") if copy_to else contextlib.nullcontext()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file, target as copy:
        while block := file.read(BLOCK):
            sha.update(block)
            size += len(block)
            if copy is not None:
                copy.write(block)
    return Entry(sha.hexdigest(), size)


def is_png(path: Path) -> bool:
    """Whether a file begins as a picture does."""
    with path.open("rb") as file:
        return file.read(len(PNG)) == PNG
