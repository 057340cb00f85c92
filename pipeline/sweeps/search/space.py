"""What a search looks for and where: the metric, and for each key the values it may take."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.runs.early_stopping import Pruning

Number = int | float
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
TEST_SCORE = re.compile(r"(cost|accuracy|r2)[/_]test$")


@dataclass(frozen=True)
class ParameterRange:
    """The values of one key: numbers between two bounds, or a list of choices.

    Args:
        low, high: bounds, both included; two integers make a key of integers.
        log: whether to draw the logarithm evenly.
        step: distance between the numbers, counted from ``low``; null for any (for 1, if they are integers).
        choices: values of any kind: numbers, texts, options of a group, lists.
    """

    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.choices is not None:
            self._check_choices(self.choices)
            return
        if self.low is None or self.high is None:
            raise ValueError(f"{'low' if self.low is None else 'high'}: is missing; allowed: low and high, or choices")
        if not (self.low < self.high and abs(self.low) < float("inf") and abs(self.high) < float("inf")):
            raise ValueError(f"low={self.low}: must be below high={self.high}, and both finite")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low}: must be > 0 with log: true")
        if self.step is not None and self.log:
            raise ValueError(f"step={self.step}: must be null with log: true")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step={self.step}: must be > 0 and at most high - low = {self.high - self.low:g}")

    def _check_choices(self, choices: tuple[Any, ...]) -> None:
        if (self.low, self.high, self.step, self.log) != (None, None, None, False):
            raise ValueError("choices: must stand alone, without low, high, log and step")
        if not choices:
            raise ValueError("choices=[]: must hold at least one value")
        texts = [text(choice) for choice in choices]
        for t in texts:
            if texts.count(t) > 1:
                raise ValueError(f"choices: must differ, but {t} is there twice")

    def distribution(self) -> BaseDistribution:
        """The same for Optuna; choices go by their text."""
        if self.choices is not None:
            return CategoricalDistribution([text(choice) for choice in self.choices])
        if self.low is None or self.high is None:
            raise AssertionError("checked when it was made")
        if all(isinstance(n, int) for n in (self.low, self.high, 1 if self.step is None else self.step)):
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def bounds(self) -> list[str]:
        """Texts of the bounds, or of all choices: what is tried out before the search begins."""
        return [text(v) for v in (self.choices if self.choices is not None else (self.low, self.high))]


@dataclass(frozen=True)
class SearchConfig:
    """A search.

    Args:
        metric: any metric that a run logs, except scores on the test set; of a series, its last value counts.
        direction: which way is better: up, down, or towards zero from either side.
        trials: how many in all.
        sampler: Parzen estimators that learn from the trials before (tpe), or chance (random).
        seed: of the sampler; runs have their own.
        pruning: when to end a trial early; null for never.
        space: the keys to search over, groups among them, with their values.
    """

    metric: str
    direction: Literal["maximise", "minimise", "zero"]
    trials: int
    sampler: Literal["tpe", "random"]
    seed: int
    pruning: Pruning | None
    space: Mapping[str, ParameterRange]

    def __post_init__(self) -> None:
        if TEST_SCORE.search(self.metric):
            other = TEST_SCORE.sub(lambda match: match[0].removesuffix("test") + "validation", self.metric)
            raise ValueError(
                f"metric={self.metric}: is a score on the test set; the best of many trials would look better than it "
                f"is (allowed: {other} with data.validation_fraction above 0, or any metric of the training)"
            )
        if self.trials < 1:
            raise ValueError(f"trials={self.trials}: must be >= 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: must be >= 0")
        if not self.space:
            raise ValueError(
                "space={}: must name at least one key, such as optimizer.learning_rate: {low: 0.01, high: 1}"
            )

    @property
    def label(self) -> str:
        """What is compared, in words."""
        return f"|{self.metric}|" if self.direction == "zero" else self.metric

    @property
    def aim(self) -> str:
        """What is wanted, in words."""
        return f"bring {self.metric} to zero" if self.direction == "zero" else f"{self.direction} {self.metric}"

    def objective(self, value: float) -> float:
        """What a value of the metric counts for."""
        return abs(value) if self.direction == "zero" else value

    def corner_points(self) -> list[dict[str, str]]:
        """Values as texts: all keys at their lower bound or first choice, each other extreme, and all at their last."""
        extremes = {key: r.bounds() for key, r in self.space.items()}
        origin = {key: e[0] for key, e in extremes.items()}
        found = [origin]
        found += [{**origin, key: other} for key, e in extremes.items() for other in e[1:]]
        found.append({key: e[-1] for key, e in extremes.items()})
        return list({json.dumps(c): c for c in found}.values())


def text(value: Any) -> str:
    """A value as Hydra's overrides write it."""
    if (
        isinstance(value, str)
        and PLAIN.fullmatch(value)
        and value.lower() not in ("null", "true", "false", "nan", "inf")
    ):
        return value
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(text(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{text(v)}" for k, v in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def short(value: Any) -> str:
    """The same, for people: numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else text(value) if not isinstance(value, str) else value
