"""Claims, and how they are answered: ``claims.yaml``, answers, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydantic
from rich.table import Table

from pipeline.analysis.estimates import Estimate


class Claim(pydantic.BaseModel):
    """One claimed number.

    Attributes:
        key: The key of the measured number in the result of ``measured``.
        says: The claim in words.
        claimed: The claimed number.
        tolerance: The largest accepted difference from the claimed number.
        relative: Whether the tolerance is a fraction of the claimed number.
        provenance: "source" for a number in the source's text or data, "formula" for a formula of the source,
            "derived" for a number that follows from one of the two.
        why: The reason for the tolerance.
        otherwise: A known reason why the claim may fail.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    key: str
    says: str
    claimed: float
    tolerance: float = pydantic.Field(ge=0)
    relative: bool
    provenance: Literal["source", "formula", "derived"]
    why: str
    otherwise: str = ""

    def within(self, measured: Estimate) -> bool:
        """Return whether the measured mean is within the tolerance."""
        limit = self.tolerance * (abs(self.claimed) if self.relative else 1.0)
        return bool(abs(float(measured.mean) - self.claimed) <= limit)


class Description(pydantic.BaseModel):
    """The content of ``claims.yaml``.

    Attributes:
        title: The title of the experiment.
        source: The publication or the theory that makes the claims.
        sweeps: The files of conf/experiment to run. Empty for an experiment with its own ``collect``.
        slow: More sweeps, which run only with ``--slow``.
        claims: The claims that are always answered.
        slow_claims: The claims that need the slow variant.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    title: str
    source: str
    sweeps: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    claims: tuple[Claim, ...]
    slow_claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A claim and the measured number.

    Attributes:
        claim: The claim.
        measured: The measured number. None if the analysis does not return one.
    """

    claim: Claim
    measured: Estimate | None

    @property
    def within(self) -> bool:
        """Whether the measured number is within the claim's tolerance."""
        return self.measured is not None and self.claim.within(self.measured)


def exact(value: float) -> Estimate:
    """Return a number that has no interval: a computed one, or one that does not depend on chance."""
    missing = np.array(np.nan)
    return Estimate(np.array(value), missing, missing, np.array(0.0))


def answer(claims: Sequence[Claim], measured: Mapping[str, Estimate]) -> list[Answer]:
    """Return each claim with the measured number of the same key."""
    return [Answer(claim, measured.get(claim.key)) for claim in claims]


def count_within(answers: Sequence[Answer]) -> str:
    """Return how many claims are within their tolerance, as "3 of 4"."""
    return f"{sum(a.within for a in answers)} of {len(answers)}"


HEADINGS = ("claim", "claimed", "measured [95% interval]", "tolerance", "", "provenance")


def markdown(answers: Sequence[Answer]) -> list[str]:
    """Return the lines of a Markdown table of claims, with the reasons of those outside their tolerance."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in _row(a)) + " |" for a in answers]
    reasons = [f"- {line}" for line in outside_reasons(answers)]
    return [*lines, "", *reasons] if reasons else lines


def table(title: str, answers: Sequence[Answer]) -> Table:
    """Return a terminal table of claims."""
    claims = Table(title=title, title_justify="left")
    for heading in HEADINGS:
        claims.add_column(heading)
    for a in answers:
        claims.add_row(*_row(a), style=None if a.within else "yellow")
    return claims


def outside_reasons(answers: Sequence[Answer]) -> list[str]:
    """Return each claim outside its tolerance, with its known reason."""
    return [f"{a.claim.says}: {a.claim.otherwise or 'not explained'}" for a in answers if not a.within]


def _row(answer: Answer) -> list[str]:
    claim = answer.claim
    tolerance = f"± {100 * claim.tolerance:.2g}%" if claim.relative else f"± {claim.tolerance:g}"
    status = "within" if answer.within else "OUTSIDE"
    return [claim.says, f"{claim.claimed:.4g}", _number(answer.measured), tolerance, status, claim.provenance]


def _number(measured: Estimate | None) -> str:
    if measured is None or not np.isfinite(measured.mean):
        return "nothing"
    has_interval = np.isfinite(measured.low)
    interval = f" [{float(measured.low):.4g}, {float(measured.high):.4g}]" if has_interval else ""
    return f"{float(measured.mean):.4g}{interval}"
