"""The facts of an exported run or sweep that are not in its artifacts: run.json and sweep.json."""

from __future__ import annotations

import posixpath
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from pipeline.reports import html
from pipeline.reproducibility.exchange.manifest import RunId, json_bytes, parse_json

NOTE = "mlflow.note.content"
IMPORTED = "imported"
ORIGIN_RUN, ORIGIN_DIGEST, ORIGIN_NOTE = f"{IMPORTED}.run_id", f"{IMPORTED}.seal", f"{IMPORTED}.note"
ORIGIN_SWEEP, ORIGIN_SWEEP_ID = f"{IMPORTED}.sweep", f"{IMPORTED}.sweep_id"  # a run's sweeps, a summary's sweep
# Tags that hold for one store, one machine or one process only.
LOCAL = re.compile(r"mlflow\.|imported(\.|$)|lease(\.|$)|command$|attempts$|kind$|sweep_summary$")
KEY = re.compile(r"[\w./\- :]{1,250}")
LONGEST_NOTE = 7_500  # characters; MLflow limits a tag to 8,000


def is_key(text: str) -> bool:
    """Return whether MLflow accepts a key of a metric, a parameter or a tag: names with slashes between them."""
    is_path = posixpath.normpath(text) == text and text != "." and not text.startswith(("..", "/"))
    return is_path and bool(KEY.fullmatch(text))


def _key(text: str) -> str:
    if not is_key(text):
        raise ValueError("must be a name, or names with slashes between them")
    return text


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not have the character 0, which databases refuse")
    return text


Milliseconds = Annotated[int, pydantic.Field(ge=0, le=4_102_444_800_000)]  # until 2100
Name = Annotated[str, pydantic.Field(max_length=250), pydantic.AfterValidator(_text)]
Key = Annotated[str, pydantic.AfterValidator(_key)]
Param = Annotated[str, pydantic.Field(max_length=6_000), pydantic.AfterValidator(_text)]
Tag = Annotated[str, pydantic.Field(max_length=8_000), pydantic.AfterValidator(_text)]
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run.

    Attributes:
        run_id: The id in the store that the run was logged to.
        start, end: Milliseconds since 1970, UTC.
        note: The run's description, Markdown.
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
        """Read run.json.

        Raises:
            ConfigError: The file does not hold the facts of a run.
        """
        return parse_json(cls, path)

    def text(self) -> bytes:
        """Return the content of run.json."""
        return json_bytes(asdict(self))


@dataclass(frozen=True)
class SweepFacts:
    """The facts of a sweep.

    Attributes:
        sweep: The sweep's id.
        runs: Run ids in order of start time.
        summary: The sweep's summary run; None if it has none.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    sweep: Name
    runs: Annotated[list[RunId], pydantic.Field(min_length=1, max_length=100_000)]
    summary: RunFacts | None

    @classmethod
    def read(cls, path: Path) -> SweepFacts:
        """Read sweep.json.

        Raises:
            ConfigError: The file does not hold the facts of a sweep.
        """
        return parse_json(cls, path)

    def text(self) -> bytes:
        """Return the content of sweep.json."""
        return json_bytes(asdict(self))


def facts_of(run: Any) -> RunFacts:
    """Return the facts of an MLflow run that do not depend on its store; for an imported run, those of its origin."""
    tags, info = dict(run.data.tags), run.info
    is_imported = tags.get(IMPORTED) == "true"
    kept = {k: v for k, v in tags.items() if not LOCAL.match(k) and is_key(k)}
    if is_imported and ORIGIN_SWEEP in tags:
        kept["sweep"] = tags[ORIGIN_SWEEP]
    elif is_imported:
        kept.pop("sweep", None)
    if "overrides" in kept:
        kept["overrides"] = html.without_addresses(kept["overrides"])
    start = int(info.start_time or 0)
    return RunFacts(
        run_id=tags.get(ORIGIN_RUN, "") if is_imported else str(info.run_id),
        name=str(info.run_name or info.run_id)[:250],
        status=info.status,
        start=start,
        end=max(start, int(info.end_time or 0)),
        note=tags.get(ORIGIN_NOTE if is_imported else NOTE, "")[:LONGEST_NOTE],
        tags=kept,
        params=dict(run.data.params),
    )
