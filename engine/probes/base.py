"""What a probe is: it reads a moment of training and gives numbers, without changing anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from engine.arrays import Array
from engine.moment import Moment
from engine.observed import Layers, Observed
from engine.sums import NOTHING, Of, Wanted
from engine.vitals import Vitals


class Reading(NamedTuple):
    """What a probe found at one moment.

    Attributes:
        layers: the numbers of the layers it was taken in, or () for a quantity of the whole network.
        values: [len(layers) or 1, E...], or [len(layers) or 1, E..., K] with ``bins``.
        part: of several quantities of one probe, which; "" for the only one.
        bins: what the last axis of values runs over (exponents of a histogram, ranks of a spectrum), or None.
        sparse: whether bins with 0 are only there because others are not, and need not be kept (a histogram).
    """

    layers: tuple[int, ...]
    values: Array
    part: str = ""
    bins: tuple[int, ...] | None = None
    sparse: bool = False


class Probe(ABC):
    """A measurement.

    Attributes:
        geometric: whether replicates are averaged as logarithms (magnitudes that span decades) or as they are.
        needs_previous: whether it reads :attr:`engine.moment.Moment.previous_grad`.
        costly: whether it takes far longer than a step, so that it is left out when the last steps before a divergence
            are measured again.
    """

    geometric: ClassVar[bool] = False
    needs_previous: ClassVar[bool] = False
    costly: ClassVar[bool] = False

    @property
    def wanted(self) -> Wanted:
        """What it will ask of :class:`engine.sums.Sums`, so that it can be taken on the way; it may ask for more."""
        return NOTHING

    @abstractmethod
    def readings(self, moment: Moment) -> list[Reading]:
        """What it finds; empty where it has no meaning. Called under ``np.errstate(all="ignore")``."""

    @staticmethod
    def of_function(function: Callable[[Observed], Array | None]) -> Probe:
        """The probe that a plain function of a layer stands for."""
        return FunctionProbe(function)


class LayerProbe(Probe):
    """A measurement of one layer at a time: the kind to derive from."""

    @abstractmethod
    def __call__(self, layer: Observed) -> Array | None:
        """The value of every member of the stack, [E...], or None where the layer has no such quantity."""

    def readings(self, moment: Moment) -> list[Reading]:
        """Layer by layer."""
        found = {o.layer.number: value for o in moment.observed if (value := self(o)) is not None}
        return [Reading(tuple(found), np.array(list(found.values()), dtype=np.float64))] if found else []


@dataclass(frozen=True)
class FunctionProbe(LayerProbe):
    """A plain function of a layer, averaged geometrically if it has an attribute ``geometric`` that says so."""

    function: Callable[[Observed], Array | None]

    @property
    def geometric(self) -> bool:  # type: ignore[override]
        """What the function says."""
        return bool(getattr(self.function, "geometric", False))

    def __call__(self, layer: Observed) -> Array | None:
        return self.function(layer)


class SharedProbe(LayerProbe):
    """A probe that reads what :class:`engine.observed.Layers` has, of all layers at once."""

    @abstractmethod
    def read(self, layers: Layers) -> Array:
        """The values of all layers, [L, E...]."""

    @np.errstate(all="ignore")
    def __call__(self, layer: Observed) -> Array:
        return np.asarray(self.read(layer.layers)[layer.index])

    def readings(self, moment: Moment) -> list[Reading]:
        return [Reading(moment.layers.numbers, self.read(moment.layers))]


class SlopeProbe(LayerProbe):
    """The same for what needs a σ'(z): layers whose σ is not element-wise have no value."""

    @abstractmethod
    def read(self, layers: Layers) -> Array:
        """The values of all layers, [L, E...]; anything where there is no slope."""

    @np.errstate(all="ignore")
    def __call__(self, layer: Observed) -> Array | None:
        return np.asarray(self.read(layer.layers)[layer.index]) if layer.has_slope else None

    def readings(self, moment: Moment) -> list[Reading]:
        layers = moment.layers
        return [Reading(*layers.of_sloped(self.read(layers)))] if layers.plan.sloped else []


class VitalProbe(Probe):
    """A probe that needs no more than :class:`engine.vitals.Vitals`, so that many steps can be read at once.

    One that asks for more than it says is measured step by step: slower, but right.

    Attributes:
        sums: those it asks for.
        of_update: whether it asks for the size of the update.
    """

    sums: ClassVar[frozenset[Of]] = frozenset()
    of_update: ClassVar[bool] = False

    @property
    def wanted(self) -> Wanted:
        """Its sums."""
        return Wanted(self.sums)

    @abstractmethod
    def found(self, vitals: Vitals) -> list[Reading]:
        """What it finds; its values have all axes of the vitals."""

    def readings(self, moment: Moment) -> list[Reading]:
        return self.found(moment.layers)


class SharedVitalProbe(VitalProbe, SharedProbe):
    """A probe that reads one of the vitals of all layers."""

    @abstractmethod
    def read(self, layers: Vitals) -> Array:
        """The values of all layers, [L, E...]."""

    def found(self, vitals: Vitals) -> list[Reading]:
        return [Reading(vitals.numbers, self.read(vitals))]


class SlopeVitalProbe(VitalProbe, SlopeProbe):
    """A probe that reads one of the vitals of all layers with a σ'(z)."""

    @abstractmethod
    def read(self, layers: Vitals) -> Array:
        """The values of all layers, [L, E...]; anything where there is no slope."""

    def found(self, vitals: Vitals) -> list[Reading]:
        return [Reading(*vitals.of_sloped(self.read(vitals)))] if vitals.plan.sloped else []
