"""The blocks of a network and their parameters.

A block maps a_in [E..., m, B] to a [E..., n, B] in the forward pass and ∂C/∂a to ∂C/∂a_in in the backward pass.
Blocks: :class:`engine.network.Dense`, :mod:`engine.residual` and :mod:`engine.normalisation`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engine.arrays import Array


class Parameter:
    """A trainable array, stored as a view into the network's flat vectors.

    Args:
        name: Attribute of the block that holds the value; "d" + name holds the gradient.
        shape: Shape without ensemble axes.
        is_weight: Whether weight decay applies. Weights precede all other parameters in the flat vectors.
        initial: Value in a new network.

    Attributes:
        place: Slice of the flat vectors that holds the parameter.
        value, grad, update: Views [E..., *shape] into theta, grad and update.
    """

    place: slice
    value: Array
    grad: Array
    update: Array

    def __init__(self, name: str, shape: tuple[int, ...], is_weight: bool = False, initial: float = 0.0) -> None:
        self.name, self.shape, self.is_weight, self.initial = name, shape, is_weight, initial

    def view(self, flat: Array) -> Array:
        """Return this parameter's part of a flat array [E..., P] as a view [E..., *shape]."""
        return flat[..., self.place].reshape(*flat.shape[:-1], *self.shape)


class Block(ABC):
    """A differentiable map of activations, for one network or a stack of networks.

    Parameter gradients are averages over the batch; ∂C/∂a is kept per example.

    Attributes:
        n_in, n_out: m and n.
        parameters: Trainable arrays.
        a: Output of the last forward pass [E..., n, B].
    """

    n_in: int
    n_out: int
    parameters: Sequence[Parameter] = ()
    a: Array
    _state: dict[str, Array]

    @abstractmethod
    def forward(self, a_in: Array, training: bool = True) -> Array:
        """Compute the output [E..., n, B].

        Args:
            a_in: Input [E..., m, B], or [m, B] shared by all members.
            training: Whether normalisation uses the statistics of the batch; otherwise it uses running statistics.
        """

    @abstractmethod
    def backward(self, dC_da: Array) -> None:
        """Compute the parameter gradients from ∂C/∂a [E..., n, B] of the last forward pass.

        Gradients are overwritten, never accumulated.
        """

    @abstractmethod
    def input_gradient(self) -> Array:
        """Return ∂C/∂a_in [E..., m, B] after ``backward``."""

    @abstractmethod
    def jacobian(self) -> Array:
        """Return ∂a/∂a_in of every example after a forward pass [E..., B, n, m].

        Raises:
            ValueError: If the block couples the examples of a batch: an example then has no Jacobian of its own.
        """

    @abstractmethod
    def buffers(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape (without ensemble axes) of each attribute that a pass overwrites."""

    @abstractmethod
    def twin(self) -> Block:
        """Return a block of the same kind with its own parameters and state."""

    def inner(self) -> Sequence[Block]:
        """Return the blocks inside this block, in forward order."""
        return ()

    def bind(self, ensemble: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Create the state, and set value and gradient of each parameter as attributes (``W`` and ``dW``)."""
        self._state = self.initial_state(ensemble, dtype)
        for parameter in self.parameters:
            setattr(self, parameter.name, parameter.value)
            setattr(self, f"d{parameter.name}", parameter.grad)

    def initial_state(self, ensemble: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Array]:
        """Return by name the initial non-parameter arrays that training changes, such as running statistics."""
        return {}

    def state(self) -> Mapping[str, Array]:
        """Return by name the non-parameter arrays that training changes."""
        return self._state

    def share_state(self, source: Block) -> None:
        """Use the state of another block of the same kind and ensemble."""
        self._state = source._state

    def update_state(self) -> None:  # noqa: B027 (most blocks have no state)
        """Update the state from the last forward pass of training; the training loop calls this once a step."""


def flatten(blocks: Sequence[Block]) -> Iterator[Block]:
    """Yield all blocks in forward order, each before the blocks inside it."""
    for block in blocks:
        yield block
        yield from flatten(block.inner())


def require_matching_sizes(blocks: Sequence[Block]) -> None:
    """Check that each block has as many inputs as the block below it has outputs.

    Raises:
        ValueError: For the first pair that does not match.
    """
    for below, block in pairwise(blocks):
        if below.n_out != block.n_in:
            raise ValueError(f"blocks: {below.n_out} outputs are followed by a block of {block.n_in} inputs")
