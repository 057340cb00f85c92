"""Probes of the units of a layer: size of z and a, slopes, saturated and dead units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.arrays import Array, norm
from engine.probes.base import Layer, Measurement, Step, Traits, layer_probe, step_probe


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-2], -1)


def _mean(x: Array) -> Array:
    """Return the float64 mean over units and examples."""
    flat = _flat(x).astype(np.float64, copy=False)
    return np.add.reduce(flat, axis=-1) / flat.shape[-1]


def _share(flags: Array) -> Array:
    """Return the share of (unit, example) pairs whose flag is set."""
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
    """Return the mean of z² over units and examples, the q of mean-field theory."""
    return _mean_square(layer.z)


@layer_probe()
def activation_mean(layer: Layer) -> Array:
    """Return the mean of a over units and examples."""
    return _mean(layer.a)


@layer_probe()
def activation_std(layer: Layer) -> Array:
    """Return the standard deviation of a over units and examples."""
    deviation = layer.a - _mean(layer.a)[..., None, None]  # float64: the error of a float32 mean may exceed the spread
    return norm(deviation) * (layer.n_out * layer.batch_size) ** -0.5


@dataclass(frozen=True)
class SaturatedFraction:
    """Share of (unit, example) pairs with |σ'(z)| < threshold · sup|σ'|, where almost no error passes.

    For rectifiers this is the share of inactive pairs, about ½ at initialisation.

    Args:
        threshold: Relative threshold in (0, 1).
    """

    threshold: float
    traits: ClassVar[Traits] = Traits()

    def __post_init__(self) -> None:
        _require_fraction("threshold", self.threshold)

    def __call__(self, layer: Layer) -> Array | None:
        return None if layer.slope is None else _share(np.abs(layer.slope) < self.threshold * layer.sigma.steepest)


@layer_probe()
def dead_fraction(layer: Layer) -> Array | None:
    """Return the share of units with σ'(z) = 0 on every example of the batch, from which they cannot learn."""
    return None if layer.slope is None else np.count_nonzero(_dead(layer.slope), axis=-1) / layer.n_out


def _dead(slope: Array) -> Array:
    """Return for every unit whether σ'(z) = 0 on every example [..., n]."""
    return np.logical_and.reduce(slope == 0, axis=-1)


@dataclass(frozen=True)
class NearLinearFraction:
    """Share of (unit, example) pairs with |σ'(z)| within ``tolerance`` of ``Activation.linear``.

    A layer whose units are all near-linear adds no expressive power to the layers around it.

    Args:
        tolerance: Relative tolerance in (0, 1).
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
    """Return the mean of σ'(z)² over units and examples, the factor of ⟨‖δ‖²⟩ that is due to σ."""
    return None if layer.slope is None else _mean_square(layer.slope)


@layer_probe()
def dead_examples(layer: Layer) -> Array | None:
    """Return the share of examples for which every unit has σ'(z) = 0, so that no gradient passes the layer."""
    if layer.slope is None:
        return None
    blocked = np.logical_and.reduce(layer.slope == 0, axis=-2)
    return np.count_nonzero(blocked, axis=-1) / layer.batch_size


@step_probe(costly=True)
def dead_units(step: Step) -> list[Measurement]:
    """Return the share of units with σ'(z) = 0 on every example of a whole pass over the training set.

    ``dead_fraction`` covers one batch, which may lack the examples that activate a unit. A tanh unit counts as dead
    from |z| of about 19, where σ' is 0 in float64.
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
