"""What a probe is, and what it reads: a layer or a whole training step, without changing anything.

A probe is a function of a :class:`Layer` that returns one value per member of the ensemble, [E...], or None where the
layer has no such quantity. A few probes need more than a layer; they are functions of a :class:`Step` that return
:class:`Measurement` values. All are called under ``np.errstate(all="ignore")``: infinities and NaNs are findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from engine.activations import Elementwise
from engine.arrays import Array
from engine.costs import Cost
from engine.network import Dense, Network

Probe = Callable[[Any], Any]  # Layer -> [E...] or None, or Step -> list of Measurements
Function = TypeVar("Function", bound=Callable[..., Any])


class Traits(NamedTuple):
    """What a run must know of a probe.

    Attributes:
        geometric: replicates are averaged as logarithms (magnitudes that span decades) or as they are.
        of_step: the probe reads a :class:`Step`, not a :class:`Layer`.
        needs_previous: it reads :attr:`Step.previous_grad`.
        costly: it takes far longer than a step and is left out when the last steps before a divergence are replayed.
    """

    geometric: bool = False
    of_step: bool = False
    needs_previous: bool = False
    costly: bool = False


def layer_probe(geometric: bool = False) -> Callable[[Function], Function]:
    """Declare a function of a layer. An undeclared function is a probe, too, with the default traits."""
    return _declare(Traits(geometric=geometric))


def step_probe(
    geometric: bool = False, needs_previous: bool = False, costly: bool = False
) -> Callable[[Function], Function]:
    """Declare a function of a :class:`Step`."""
    return _declare(Traits(geometric, True, needs_previous, costly))


def _declare(traits: Traits) -> Callable[[Function], Function]:
    def declare(function: Function) -> Function:
        setattr(function, "traits", traits)  # noqa: B010 (a function has attributes, which mypy does not know)
        return function

    return declare


def traits_of(probe: Probe) -> Traits:
    """Return what was declared of a probe; of an undeclared function the defaults."""
    declared: Traits = getattr(probe.func if isinstance(probe, partial) else probe, "traits", Traits())
    return declared


class Measurement(NamedTuple):
    """What a probe measured at one step.

    Attributes:
        layers: the numbers of the layers, or () for a quantity of the whole network.
        values: [len(layers) or 1, E...], or [len(layers) or 1, E..., K] with ``bins``.
        part: the name of this quantity, for a probe that measures several; else "".
        bins: the labels of the last axis of values (exponents of a histogram, ranks of a spectrum), or None.
        sparse: whether bins with 0 may be left out of the records (a histogram).
    """

    layers: tuple[int, ...]
    values: Array
    part: str = ""
    bins: tuple[int, ...] | None = None
    sparse: bool = False


class Layer:
    """A Dense layer as a probe reads it. All arrays are read-only.

    Attributes:
        number: l, from 1 to L.
        n_in, n_out, batch_size: m, n and B.
        sigma: σ.
        W, b, dW, db: weights [E..., n, m], biases [E..., n, 1] and their gradients.
        W_update, b_update: the optimizer's proposed ΔW and Δb.
        a_in, z, a, delta: input [E..., m, B]; z, a and δ [E..., n, B].
    """

    W: Array
    b: Array
    dW: Array
    db: Array
    W_update: Array
    b_update: Array
    a_in: Array
    z: Array
    a: Array
    delta: Array

    def __init__(self, layer: Dense) -> None:
        self._layer = layer
        self.number, self.sigma = layer.number, layer.sigma
        self.n_in, self.n_out, self.batch_size = layer.n_in, layer.n_out, layer.z.shape[-1]

    def __getattr__(self, name: str) -> Array:
        """Read an array of the layer at its first use."""
        if name not in Layer.__annotations__:
            raise AttributeError(f"a layer has no {name}")
        array = _array(self._layer, name).view()
        array.flags.writeable = False
        vars(self)[name] = array
        return array

    @cached_property
    def slope(self) -> Array | None:
        """σ'(z) of every unit and example [E..., n, B]; None where σ is not element-wise."""
        if not isinstance(self.sigma, Elementwise):
            return None
        slope = self.sigma.derivative(self.z, self.a, out=np.empty_like(self.z))
        slope = slope.astype(self.z.dtype, copy=False).view()
        slope.flags.writeable = False
        return slope


def _array(layer: Dense, name: str) -> Array:
    if name.endswith("_update"):
        return next(p.update for p in layer.parameters if p.name == name[0])
    array: Array = getattr(layer, name)
    ensemble = layer.z.shape[:-2]
    return array if array.shape[:-2] == ensemble else np.broadcast_to(array, (*ensemble, *array.shape[-2:]))


def _no_generators(use: int) -> list[np.random.Generator]:
    raise LookupError("this step has no randomness to give: Step(..., generators=...)")


def _no_inputs() -> Iterator[Array]:
    raise LookupError("this step has no data to give: Step(..., inputs=...)")


@dataclass(eq=False)
class Step:
    """One training step, after ``backward`` and before the update is added.

    Attributes:
        network: its ``update`` is the proposed Δθ.
        y: targets of the batch, [E..., n_L, B].
        cost: C.
        previous_grad: the gradient of the step before, [E..., P]; None if there is none, or if no probe needs it.
        generators: for a use of randomness (any number), one fresh generator per member.
        inputs: a whole pass over the data, in batches of inputs [E..., n_0, B'].
    """

    network: Network
    y: Array | None = None
    cost: Cost | None = None
    previous_grad: Array | None = None
    generators: Callable[[int], list[np.random.Generator]] = _no_generators
    inputs: Callable[[], Iterator[Array]] = _no_inputs

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers 1 ... L."""
        return [Layer(layer) for layer in self.network.layers]

    def normal(self, use: int, shape: tuple[int, ...]) -> Array:
        """Draw standard normal numbers [E..., *shape] in the network's dtype, each member's from its own generator."""
        drawn = [generator.standard_normal(shape) for generator in self.generators(use)]
        return np.array(drawn).reshape(*self.network.ensemble, *shape).astype(self.network.dtype)


@np.errstate(all="ignore")
def measure(step: Step, probe: Probe) -> list[Measurement]:
    """Apply a probe to a step: all that it measures there."""
    traits = traits_of(probe)
    if traits.of_step:
        return list(probe(step))
    numbers: list[int] = []
    values: list[Array] = []
    for layer in step.layers:
        value = probe(layer)
        if value is not None:
            numbers.append(layer.number)
            values.append(value)
    return [Measurement(tuple(numbers), np.array(values, dtype=np.float64))] if numbers else []
