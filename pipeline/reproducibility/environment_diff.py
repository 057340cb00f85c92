"""Then and now: how the circumstances of a run differ from those of another, or from the present ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.reproducibility.environment import Provenance

FACTS = {  # what is compared as it stands: tag -> what to call it
    "config.sha256": "config",
    "data.sha256": "data",
    "blas": "BLAS",
    "blas.build": "BLAS build",
    "blas.core_type": "core type",
    "blas.threads": "BLAS threads",
    "cpu.features": "CPU features",
    "python": "Python",
    "platform": "platform",
    "machine": "machine",
    "processor": "processor",
}
UNRECORDED = "not recorded"


class Change(NamedTuple):
    """One fact that differs."""

    what: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.what} was {self.was}, is {self.now}"


def changes(then: Provenance, now: Provenance) -> list[Change]:
    """What differs: config and data, code, packages, BLAS, core type, threads, CPU features, Python, machine."""
    facts = [
        Change(f"{word} ({tag})" if tag.endswith("sha256") else word, was, is_)
        for tag, word in FACTS.items()
        if _parts(was := then.tags.get(tag, UNRECORDED)) != _parts(is_ := now.tags.get(tag, UNRECORDED))
    ]
    first = [c for c in facts if c.what.endswith("sha256)")]
    return [*first, *_code(then, now), *_packages(then, now), *(c for c in facts if c not in first)]


def _parts(text: str) -> set[str]:
    """Of several libraries' facts, in whatever order they were loaded."""
    return set(text.split("; "))


def _code(then: Provenance, now: Provenance) -> Iterator[Change]:
    one, two = code(then), code(now)
    same = then.tags.get("code.sha256") == now.tags.get("code.sha256")
    if one != two or then.patch != now.patch:
        known = "code.sha256" in then.tags and "code.sha256" in now.tags
        note = " (the code that training runs is the same)" if known and same else ""
        if one == two:
            two = f"{two}, but another patch"
        yield Change("commit", one, two + note)
    elif not same:
        yield Change("code (code.sha256)", *(p.tags.get("code.sha256", UNRECORDED) for p in (then, now)))


def code(of: Provenance) -> str:
    """The commit, and what was not in it."""
    commit = of.tags.get("git.commit", UNRECORDED)
    if of.patch:
        lines = sum(bool(re.match(r"[+-](?![+-]{2})", line)) for line in of.patch.splitlines())
        return f"{commit} with a patch of {lines} changed lines"
    return f"{commit} with files git did not know" if of.tags.get("git.dirty") == "true" else commit


def _packages(then: Provenance, now: Provenance) -> Iterator[Change]:
    """Each package that differs, by name."""
    one, two = packages(then), packages(now)
    complete = bool(then.packages) and bool(now.packages)
    for name in sorted({*one, *two} if complete else {*one} & {*two}):
        was, is_ = one.get(name, "not installed"), two.get(name, "not installed")
        if was != is_:
            yield Change(f"package {name}", was, is_)


def packages(of: Provenance) -> Mapping[str, str]:
    """Version by name, from the list of all, or from what the tags tell."""
    if of.packages:
        pairs = (line.partition("==") for line in of.packages.splitlines())
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pairs if name}
    return {key.removeprefix("package."): value for key, value in of.tags.items() if key.startswith("package.")}
