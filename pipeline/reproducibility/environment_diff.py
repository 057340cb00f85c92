"""The differences between the environments of two runs, or between a run's and the present one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.reproducibility.environment import Provenance

LABELS = {  # fact -> label; these facts are compared by value
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
    """One fact that differs between two environments."""

    what: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.what} was {self.was}, is {self.now}"


def changes(then: Provenance, now: Provenance) -> list[Change]:
    """Compare two environments.

    Args:
        then: The first environment.
        now: The second environment.

    Returns:
        Changes of config and data, code, packages, then BLAS, CPU features, Python and machine.
    """
    facts = [
        Change(f"{label} ({fact})" if fact.endswith("sha256") else label, was, is_)
        for fact, label in LABELS.items()
        if _parts(was := then.facts.get(fact, UNRECORDED)) != _parts(is_ := now.facts.get(fact, UNRECORDED))
    ]
    first = [c for c in facts if c.what.endswith("sha256)")]
    return [*first, *_code_changes(then, now), *_package_changes(then, now), *(c for c in facts if c not in first)]


def _parts(text: str) -> set[str]:
    """Split the facts of several libraries, whose order depends on when each was loaded."""
    return set(text.split("; "))


def _code_changes(then: Provenance, now: Provenance) -> Iterator[Change]:
    was, is_ = code_state(then), code_state(now)
    is_same_code = then.facts.get("code.sha256") == now.facts.get("code.sha256")
    if was != is_ or then.patch != now.patch:
        is_recorded = "code.sha256" in then.facts and "code.sha256" in now.facts
        note = " (the code that training runs is the same)" if is_recorded and is_same_code else ""
        if was == is_:
            is_ = f"{is_}, but another patch"
        yield Change("commit", was, is_ + note)
    elif not is_same_code:
        yield Change("code (code.sha256)", *(p.facts.get("code.sha256", UNRECORDED) for p in (then, now)))


def code_state(environment: Provenance) -> str:
    """Return the commit, and a description of changes that were not committed."""
    commit = environment.facts.get("git.commit", UNRECORDED)
    if environment.patch:
        count = sum(bool(re.match(r"[+-](?![+-]{2})", line)) for line in environment.patch.splitlines())
        return f"{commit} with a patch of {count} changed lines"
    return f"{commit} with untracked files" if environment.facts.get("git.dirty") == "true" else commit


def _package_changes(then: Provenance, now: Provenance) -> Iterator[Change]:
    before, after = package_versions(then), package_versions(now)
    is_complete = bool(then.packages) and bool(now.packages)
    for name in sorted({*before, *after} if is_complete else {*before} & {*after}):
        was, is_ = before.get(name, "not installed"), after.get(name, "not installed")
        if was != is_:
            yield Change(f"package {name}", was, is_)


def package_versions(environment: Provenance) -> Mapping[str, str]:
    """Return package versions by name, from the full list if there is one, else from the facts."""
    if environment.packages:
        pairs = (line.partition("==") for line in environment.packages.splitlines())
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pairs if name}
    facts = environment.facts
    return {key.removeprefix("package."): value for key, value in facts.items() if key.startswith("package.")}
