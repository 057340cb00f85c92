"""What the units of a layer do: size of z and a, slopes, saturation, death."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array, norm
from engine.probes.base import Layer, Measurement, Step, Traits, layer_probe, step_probe


def _flat(x: Array) -> Array:
    """[..., n, B] -> [..., n·B]."""
    return x.reshape(*x.shape[:-2], -1)


def _mean(x: Array) -> Array:
    """Mean over units and examples, float64."""
    flat = _flat(x).astype(np.float64, copy=False)
    return np.add.reduce(flat, axis=-1) / flat.shape[-1]


def _share(flags: Array) -> Array:
    """Share of (unit, example) pairs for which a flag is set."""
    flat = _flat(flags)
    counts = [np.count_nonzero(row) for row in flat.reshape(-1, flat.shape[-1])]  # faster than with axis=-1
    return np.array(counts).reshape(flat.shape[:-1]) / flat.shape[-1]


def _mean_square(x: Array) -> Array:
    return np.square(norm(x)) / (x.shape[-2] * x.shape[-1])


def _require_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}={value}: must be in (0, 1)")


@layer_probe(geometric=True)
def z_mean_square(layer: Layer) -> Array:
    """Mean of z² over units and examples: the q of mean-field theory."""
    return _mean_square(layer.z)


@layer_probe()
def activation_mean(layer: Layer) -> Array:
    """Mean of a over units and examples."""
    return _mean(layer.a)


@layer_probe()
def activation_std(layer: Layer) -> Array:
    """Standard deviation of a over units and examples."""
    deviation = layer.a - _mean(layer.a)[..., None, None]  # float64, since a float32 mean may be off by the spread
    return norm(deviation) * (layer.n_out * layer.batch_size) ** -0.5


@dataclass(frozen=True)
class SaturatedFraction:
    """Share of (unit, example) pairs with |σ'(z)| < threshold · sup|σ'|: hardly any error passes there.

    For rectifiers it is the share that is switched off, about ½ at initialisation.

    Args:
        threshold: in (0, 1).
    """

    threshold: float
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        _require_fraction("threshold", self.threshold)

    def __call__(self, layer: Layer) -> Array | None:
        return None if layer.slope is None else _share(np.abs(layer.slope) < self.threshold * layer.sigma.steepest)


@layer_probe()
def dead_fraction(layer: Layer) -> Array | None:
    """Share of units with σ'(z) = 0 on every example of the batch: they cannot learn from it."""
    return None if layer.slope is None else np.count_nonzero(_dead(layer.slope), axis=-1) / layer.n_out


def _dead(slope: Array) -> Array:
    """Whether σ'(z) = 0 on every example, of every unit: [..., n]."""
    return np.logical_and.reduce(slope == 0, axis=-1)


@dataclass(frozen=True)
class NearLinearFraction:
    """Share of (unit, example) pairs with σ'(z) within ``tolerance`` of the slope where σ is a straight line.

    That slope is σ'(0) for sigmoids and the slope far above 0 for rectifiers (``Activation.linear``). A layer whose
    units are all near-linear adds nothing to what the layers around it can do.

    Args:
        tolerance: relative, in (0, 1).
    """

    tolerance: float
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        _require_fraction("tolerance", self.tolerance)

    def __call__(self, layer: Layer) -> Array | None:
        if layer.slope is None:
            return None
        linear = layer.slope.dtype.type(layer.sigma.linear)
        return _share(np.abs(np.abs(layer.slope) - linear) <= layer.slope.dtype.type(self.tolerance) * linear)


@layer_probe(geometric=True)
def slope_mean_square(layer: Layer) -> Array | None:
    """Mean of σ'(z)² over units and examples: what a layer's σ does to ⟨‖δ‖²⟩."""
    return None if layer.slope is None else _mean_square(layer.slope)


@layer_probe()
def dead_examples(layer: Layer) -> Array | None:
    """Share of the batch's examples for which every unit of the layer has σ'(z) = 0: nothing passes further down."""
    if layer.slope is None:
        return None
    blocked = np.logical_and.reduce(layer.slope == 0, axis=-2)
    return np.count_nonzero(blocked, axis=-1) / layer.batch_size


@step_probe(costly=True)
def dead_units(step: Step) -> list[Measurement]:
    """Share of units with σ'(z) = 0 on every example of a whole pass over the training set.

    ``dead_fraction`` says the same of one batch, which may miss the examples that wake a unit. In float arithmetic σ'
    of a tanh unit is 0 from |z| of about 19 (float64): it passes nothing, so it counts.
    """
    twin = step.network.twin("whole pass")
    dead: dict[int, Array] = {}
    for x in step.inputs():
        twin.forward(x)
        for layer in Step(twin).layers:
            if layer.slope is not None:
                dead[layer.number] = _dead(layer.slope) & dead.get(layer.number, True)
    shares = [np.count_nonzero(units, axis=-1) / units.shape[-1] for units in dead.values()]
    return [Measurement(tuple(dead), np.array(shares))] if dead else []
