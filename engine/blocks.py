"""Blocks and their parameters: what a network is made of.

A block maps a_in [E..., m, B] to a [E..., n, B] and carries ∂C/∂a back to ∂C/∂a_in. :class:`engine.network.Dense` is
one; :mod:`engine.residual` and :mod:`engine.normalisation` hold others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engine.arrays import Array


class Parameter:
    """One array of trainable numbers: views into the network's flat vectors.

    Args:
        name: the attribute of the block under which its value is found; "d" + name holds its gradient.
        shape: without ensemble axes.
        is_weight: whether weight decay applies. Weights precede all other parameters in the flat vectors.
        initial: the value in a new network.

    Attributes:
        place: the slice of the flat vectors that holds it.
        value, grad, update: views [E..., *shape] into theta, grad and update.
    """

    place: slice
    value: Array
    grad: Array
    update: Array

    def __init__(self, name: str, shape: tuple[int, ...], is_weight: bool = False, initial: float = 0.0) -> None:
        self.name, self.shape, self.is_weight, self.initial = name, shape, is_weight, initial

    def view(self, flat: Array) -> Array:
        """This parameter's part of a flat array [E..., P], as a view [E..., *shape]."""
        return flat[..., self.place].reshape(*flat.shape[:-1], *self.shape)


class Block(ABC):
    """A differentiable map of activations, for one network or a stack of networks.

    ``backward`` overwrites the gradients of the block's parameters; it never accumulates. Gradients of parameters are
    averages over the batch, ∂C/∂a is of each example.

    Attributes:
        n_in, n_out: m and n.
        parameters: the trainable arrays.
        a: the output of the last forward pass, [E..., n, B].
    """

    n_in: int
    n_out: int
    parameters: Sequence[Parameter] = ()
    a: Array
    _state: dict[str, Array]

    @abstractmethod
    def forward(self, a_in: Array, training: bool = True) -> Array:
        """Compute the output from a_in [E..., m, B] (or [m, B], shared by all members): [E..., n, B].

        Args:
            training: False to use what was learned instead of the batch's own statistics, where a block has both.
        """

    @abstractmethod
    def backward(self, dC_da: Array) -> None:
        """Compute the gradients of the parameters from ∂C/∂a [E..., n, B] of the last forward pass."""

    @abstractmethod
    def input_gradient(self) -> Array:
        """Return ∂C/∂a_in [E..., m, B], after ``backward``."""

    @abstractmethod
    def jacobian(self) -> Array:
        """Return ∂a/∂a_in of every example after a forward pass: [E..., B, n, m].

        Raises:
            ValueError: the block couples the examples of a batch, so that no example has a Jacobian of its own.
        """

    @abstractmethod
    def buffers(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Return the names and shapes (without ensemble axes) of the arrays that a pass fills, as attributes."""

    @abstractmethod
    def twin(self) -> Block:
        """Return a block of the same kind with parameters and state of its own."""

    def inner(self) -> Sequence[Block]:
        """Return the blocks that this one contains, in forward order."""
        return ()

    def bind(self, ensemble: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Expose every parameter as an attribute, value ``W`` and gradient ``dW`` for the name "W"; make the state."""
        self._state = self.initial_state(ensemble, dtype)
        for parameter in self.parameters:
            setattr(self, parameter.name, parameter.value)
            setattr(self, f"d{parameter.name}", parameter.grad)

    def initial_state(self, ensemble: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Array]:
        """Make the arrays that training changes and that are no parameters, such as running statistics, by name."""
        return {}

    def state(self) -> Mapping[str, Array]:
        """Return these arrays."""
        return self._state

    def share_state(self, other: Block) -> None:
        """Read the state of another block, of the same kind and ensemble, instead of one of its own."""
        self._state = other._state

    def update_state(self) -> None:  # noqa: B027 (most blocks have no state)
        """Advance the state by the last forward pass of training; the training loop calls this once a step."""


def flatten(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield all blocks in forward order, each before the blocks that it contains."""
    for block in blocks:
        yield block
        yield from flatten(block.inner())


def require_matching_sizes(blocks: Sequence[Block]) -> None:
    """Check that each block has as many inputs as the block below it has outputs.

    Raises:
        ValueError: the first pair that does not match.
    """
    for below, block in pairwise(blocks):
        if below.n_out != block.n_in:
            raise ValueError(f"blocks: {below.n_out} outputs are followed by a block of {block.n_in} inputs")
