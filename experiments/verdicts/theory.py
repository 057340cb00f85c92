"""Is the band that an explanation states for the start true? Count random networks whose decades lie in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from experiments.verdicts.networks import NAMED, SCALED, SIGMAS, between, pick
from pipeline.analysis.expectation import expect
from pipeline.analysis.flow import decades
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.training.loop import train
from pipeline.training.prepare import prepare_run

DATA = ("gaussian_noise", "digits", "iris", "wine", "breast_cancer")
SCALES = {
    "gaussian_fan_in": "init.weights.std",
    "orthogonal": "init.weights.gain",
    "truncated_normal": "init.weights.std",
    "mean_field": "init.weights.sigma_w2",
}


@dataclass(frozen=True)
class Compared:
    """A network at the start, and theory.

    Attributes:
        overrides: The overrides of its config.
        measured: The decades of its single replicate; NaN if they are not finite.
        low: Lower end of the stated band.
        high: Upper end.
    """

    overrides: tuple[str, ...]
    measured: float
    low: float
    high: float

    @property
    def is_stated(self) -> bool:
        """Whether the explanation compares the two."""
        return bool(np.isfinite([self.measured, self.low, self.high]).all())

    @property
    def is_inside(self) -> bool:
        """Whether the measured decades lie in the band."""
        return self.low <= self.measured <= self.high


def draw(number: int, seed: int) -> tuple[str, ...]:
    """Return the overrides of a network: any activation and initialiser, 2 to 60 hidden layers of 10 to 500 units."""
    rng = np.random.default_rng([seed, number, 1])
    sigma, data = pick(rng, *SIGMAS, "softplus"), pick(rng, *DATA)
    depth, width = round(between(rng, 2, 60)), round(between(rng, 10, 500))
    name = pick(rng, *NAMED, *SCALED, "nielsen")
    keys = [f"data={data}", "data.subset=100", "architecture=deep", f"architecture.depth={depth}"]
    keys += [f"architecture.width={width}", f"activation={sigma}", f"init={name}", "probes=essential"]
    if name in SCALES:
        variance = between(rng, 0.5, 4)
        value = {"mean_field": variance, "truncated_normal": (variance / (0.774 * width)) ** 0.5}.get(
            name, variance**0.5
        )
        keys.append(f"{SCALES[name]}={value:.4g}")
    size = round(between(rng, 1, 100))
    return (*keys, "epochs=0", f"batching.size={size}", f"seed={int(rng.integers(1_000_000))}")


def compare(overrides: tuple[str, ...]) -> Compared:
    """Measure a network at the start and compare it with theory's band."""
    run = prepare_run(build(compose_run(overrides)))
    hidden = len(run.sizes) - 2
    record = next(r for r in train(run) if r.probe == "delta_rms")
    expectation = expect(run)
    least, most, std = expectation.decades(hidden) if expectation is not None else (np.nan,) * 3
    return Compared(overrides, float(decades(record, hidden)[0]), least - 1.96 * std, most + 1.96 * std)


def comparisons(count: int, seed: int) -> Iterator[Compared]:
    """Yield the first networks that theory covers."""
    number = 0
    while count:
        compared = compare(draw(number, seed))
        number += 1
        if compared.is_stated:
            count -= 1
            yield compared
