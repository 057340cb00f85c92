"""One step of training as probes see it: the network after a backward pass, its layers, and what lies around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from engine.arrays import Array
from engine.costs import Cost
from engine.network import Network
from engine.observed import Layers, Observed
from engine.once import once
from engine.optimizers import Proposal, made


def _no_generators(use: int) -> list[np.random.Generator]:
    raise LookupError("this moment has no randomness to give: Moment(..., generators=...)")


def _no_inputs() -> Iterator[Array]:
    raise LookupError("this moment has no data to give: Moment(..., inputs=...)")


@dataclass(eq=False)
class Moment:
    """A step. Nothing here may be changed by who looks at it (a frozen class would say so, and take twice as long to
    make, at every step).

    Attributes:
        network: after ``forward`` and ``backward``.
        proposed: the optimizer's Δθ about to be added, [E..., P], or what makes it when it is first looked at.
        y: targets of the batch, [E..., n_L, B]; its inputs are ``network.layers[0].a_in``.
        cost: C.
        previous_grad: the gradient of the step before, [E..., P]; None if there is none, or if nobody asked for it.
        generators: for a use of randomness (any number), one fresh generator a member, in the order of the stack.
        inputs: a whole pass over the data, in batches of inputs [E..., n_0, B'].
    """

    network: Network
    proposed: Array | Proposal
    y: Array | None = None
    cost: Cost | None = None
    previous_grad: Array | None = None
    generators: Callable[[int], list[np.random.Generator]] = _no_generators
    inputs: Callable[[], Iterator[Array]] = _no_inputs

    @property
    def update(self) -> Array:
        """Δθ [E..., P], apart from the gradient."""
        return made(self.proposed)

    @once
    def layers(self) -> Layers:
        """What probes share, of all layers at once."""
        return Layers.of(self.network, self.proposed)

    @once
    def observed(self) -> list[Observed]:
        """The layers one by one, with the values of each observed alone, bit for bit."""
        network, layers = self.network, self.layers
        updates = network.parameters.weights(self.update)
        return [
            Observed(layer, dW, i == network.depth - 1, layers, i)
            for i, (layer, dW) in enumerate(zip(network.layers, updates, strict=True))
        ]

    @property
    def x(self) -> Array:
        """The inputs of the batch, [E..., n_0, B]."""
        return self.network.layers[0].a_in

    def normal(self, use: int, shape: tuple[int, ...]) -> Array:
        """Standard normal numbers [E..., *shape], each member's from its own generator, in the network's type."""
        drawn = [generator.standard_normal(shape) for generator in self.generators(use)]
        return np.array(drawn).reshape(*self.network.ensemble, *shape).astype(self.network.theta.dtype)

    @once
    def under_random_cotangent(self) -> Moment:
        """The same step with δ^L ~ N(0, 1), independent of everything, in place of the cost's.

        Mean-field theory assumes that δ^L does not depend on the weights below; here that is so.
        """
        shadow = self.network.shadow("random cotangent")
        shadow.forward(self.x)
        shadow.backward_from(self.normal(_COTANGENT, shadow.layers[-1].delta.shape[-2:]))
        return Moment(shadow, self.proposed, generators=self.generators, inputs=self.inputs)

    def over_whole_pass(self, seen_by: Callable[[Layers], Array]) -> Array:
        """Σ of what ``seen_by`` finds in each batch of a whole pass: for what one batch cannot tell."""
        shadow = self.network.shadow("whole pass")
        total: Array | None = None
        for x in self.inputs():
            shadow.forward(x)
            seen = seen_by(Layers.of(shadow, self.proposed))
            total = seen.copy() if total is None else total + seen  # it may be the network's own, and overwritten
        if total is None:
            raise LookupError("a whole pass over the data has no batch in it")
        return total


_COTANGENT = 1
