"""What an export says of a run or a sweep besides its files: run.json and sweep.json."""

from __future__ import annotations

import posixpath
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from pipeline.reports import html
from pipeline.reproducibility.exchange.manifest import RunId, parsed, written

NOTE = "mlflow.note.content"
IMPORTED = "imported"
ORIGIN_RUN, ORIGIN_SEAL, ORIGIN_NOTE = f"{IMPORTED}.run_id", f"{IMPORTED}.seal", f"{IMPORTED}.note"
ORIGIN_SWEEP, ORIGIN_SWEEP_ID = f"{IMPORTED}.sweep", f"{IMPORTED}.sweep_id"  # a run's sweeps, a summary's sweep
# what is true of one store, one machine or one process only
LOCAL = re.compile(r"mlflow\.|imported(\.|$)|lease(\.|$)|command$|attempts$|kind$|sweep_summary$")
KEY = re.compile(r"[\w./\- :]{1,250}")
LONGEST_NOTE = 7_500  # a tag holds 8000


def _key(text: str) -> str:
    """MLflow's rule for keys: their parts between slashes are names."""
    if not KEY.fullmatch(text) or posixpath.normpath(text) != text or text.startswith((".", "/")):
        raise ValueError("must be a name, or names with slashes between them")
    return text


Milliseconds = Annotated[int, pydantic.Field(ge=0, le=4_102_444_800_000)]  # until 2100
Name = Annotated[str, pydantic.Field(max_length=250)]
Key = Annotated[str, pydantic.AfterValidator(_key)]
Param = Annotated[str, pydantic.Field(max_length=6_000)]
Tag = Annotated[str, pydantic.Field(max_length=8_000)]
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunFacts:
    """A run.

    Attributes:
        run_id: in the store that it was logged to.
        start, end: milliseconds since 1970, UTC.
        note: the description of its page, Markdown.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    run_id: RunId
    name: Name
    status: Status
    start: Milliseconds
    end: Milliseconds
    note: Tag
    tags: dict[Key, Tag]
    params: dict[Key, Param]

    @classmethod
    def read(cls, path: Path) -> RunFacts:
        """From a file.

        Raises:
            ConfigError: it holds something else.
        """
        return parsed(cls, path)

    def text(self) -> bytes:
        """As a file."""
        return written(asdict(self))


@dataclass(frozen=True)
class SweepFacts:
    """A sweep.

    Attributes:
        sweep: its id.
        runs: ids, in the order in which they began.
        summary: the sweep's own run, None if it has none.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    sweep: Name
    runs: Annotated[list[RunId], pydantic.Field(min_length=1, max_length=100_000)]
    summary: RunFacts | None

    @classmethod
    def read(cls, path: Path) -> SweepFacts:
        """From a file.

        Raises:
            ConfigError: it holds something else.
        """
        return parsed(cls, path)

    def text(self) -> bytes:
        """As a file."""
        return written(asdict(self))


def _is_key(text: str) -> bool:
    try:
        return bool(_key(text))
    except ValueError:
        return False


def facts_of(run: Any) -> RunFacts:
    """Of a run in the store, in words that do not depend on the store; of an imported one, those of its folder."""
    tags, info = dict(run.data.tags), run.info
    imported = tags.get(IMPORTED) == "true"
    kept = {k: v for k, v in tags.items() if not LOCAL.match(k) and _is_key(k)}
    if imported and ORIGIN_SWEEP in tags:
        kept["sweep"] = tags[ORIGIN_SWEEP]
    elif imported:
        kept.pop("sweep", None)
    if "overrides" in kept:
        kept["overrides"] = html.without_addresses(kept["overrides"])
    start = int(info.start_time or 0)
    return RunFacts(
        run_id=tags.get(ORIGIN_RUN, "") if imported else str(info.run_id),
        name=str(info.run_name or info.run_id)[:250],
        status=info.status,
        start=start,
        end=max(start, int(info.end_time or 0)),
        note=tags.get(ORIGIN_NOTE if imported else NOTE, "")[:LONGEST_NOTE],
        tags=kept,
        params=dict(run.data.params),
    )
