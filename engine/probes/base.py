"""The interface of probes: the layer or training step that a probe reads, and the measurements that it returns.

A probe is a function of a :class:`Layer` that returns one value per member of the ensemble [E...], or None where the
quantity is not defined. A few probes are functions of a :class:`Step` that return a list of :class:`Measurement`.
:func:`measure` suppresses floating-point warnings, because infinities and NaNs are valid results.
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

Probe = Callable[[Any], Any]  # Layer -> [E...] or None; or Step -> list of Measurements
Function = TypeVar("Function", bound=Callable[..., Any])


class Traits(NamedTuple):
    """Properties of a probe that a run needs.

    Attributes:
        geometric: Whether means over replicates are geometric, for magnitudes that span decades.
        of_step: Whether the probe reads a :class:`Step` and not a :class:`Layer`.
        needs_previous: Whether it reads :attr:`Step.previous_grad`.
        costly: Whether it takes far longer than a step; a replay of the steps before a divergence then skips it.
    """

    geometric: bool = False
    of_step: bool = False
    needs_previous: bool = False
    costly: bool = False


def layer_probe(geometric: bool = False) -> Callable[[Function], Function]:
    """Return a decorator that declares a probe of a layer; an undeclared function has the default traits."""
    return _declare(Traits(geometric=geometric))


def step_probe(
    geometric: bool = False, needs_previous: bool = False, costly: bool = False
) -> Callable[[Function], Function]:
    """Return a decorator that declares a probe of a :class:`Step`."""
    return _declare(Traits(geometric, True, needs_previous, costly))


def _declare(traits: Traits) -> Callable[[Function], Function]:
    def declare(function: Function) -> Function:
        setattr(function, "traits", traits)  # noqa: B010 (mypy rejects attributes of functions)
        return function

    return declare


def traits_of(probe: Probe) -> Traits:
    """Return the declared traits of a probe, or the defaults."""
    declared: Traits = getattr(probe.func if isinstance(probe, partial) else probe, "traits", Traits())
    return declared


class Measurement(NamedTuple):
    """Values of one quantity at one step.

    Attributes:
        layers: Numbers of the layers, or () for a quantity of the whole network.
        values: Array [len(layers) or 1, E...], or [len(layers) or 1, E..., K] with ``bins``.
        part: Name of the quantity for a probe that measures several, else "".
        bins: Labels of the last axis of values (exponents of a histogram, ranks of a spectrum), or None.
        sparse: Whether records may omit bins with value 0 (a histogram).
    """

    layers: tuple[int, ...]
    values: Array
    part: str = ""
    bins: tuple[int, ...] | None = None
    sparse: bool = False


class Layer:
    """Read-only view of a Dense layer.

    Attributes:
        number: l, from 1 to L.
        n_in, n_out, batch_size: m, n and B.
        sigma: σ.
        W, b, dW, db: Weights [E..., n, m], biases [E..., n, 1] and their gradients.
        W_update, b_update: The optimizer's proposed ΔW and Δb.
        a_in, z, a, delta: Input [E..., m, B]; z, a and δ [E..., n, B].
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
        """Return an array of the layer, kept after the first use."""
        if name not in Layer.__annotations__:
            raise AttributeError(f"{name}: a layer has no such array; allowed: {', '.join(Layer.__annotations__)}")
        array = _array(self._layer, name).view()
        array.flags.writeable = False
        vars(self)[name] = array
        return array

    @cached_property
    def slope(self) -> Array | None:
        """Return σ'(z) of every unit and example [E..., n, B]; None where σ is not element-wise."""
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


def _no_generators(stream: int) -> list[np.random.Generator]:
    raise LookupError("generators: the step has none; pass Step(..., generators=...)")


def _no_inputs() -> Iterator[Array]:
    raise LookupError("inputs: the step has none; pass Step(..., inputs=...)")


@dataclass(eq=False)
class Step:
    """One training step, after ``backward`` and before the update is added.

    Attributes:
        network: Network whose ``update`` is the proposed Δθ.
        y: Targets of the batch [E..., n_L, B].
        cost: C.
        previous_grad: Gradient of the previous step [E..., P]; None at step 0, or if no probe needs it.
        generators: Function of the number of a random stream that returns one new generator per member.
        inputs: Function that iterates over the data once, in batches of inputs [E..., n_0, B'].
    """

    network: Network
    y: Array | None = None
    cost: Cost | None = None
    previous_grad: Array | None = None
    generators: Callable[[int], list[np.random.Generator]] = _no_generators
    inputs: Callable[[], Iterator[Array]] = _no_inputs

    @cached_property
    def layers(self) -> list[Layer]:
        """Return layers 1 ... L."""
        return [Layer(layer) for layer in self.network.layers]

    def normal(self, stream: int, shape: tuple[int, ...]) -> Array:
        """Draw standard normal numbers [E..., *shape] in the network's dtype, with one generator per member."""
        draws = [generator.standard_normal(shape) for generator in self.generators(stream)]
        return np.array(draws).reshape(*self.network.ensemble, *shape).astype(self.network.dtype)


@np.errstate(all="ignore")
def measure(step: Step, probe: Probe) -> list[Measurement]:
    """Return all measurements of a probe at a step."""
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
