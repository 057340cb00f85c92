"""Forward and backward pass of the derivation, for one network or a stack of networks.

    z = W a + b,  a = σ(z)                       forward
    δ^L = ∂C/∂a ⊙ σ'(z^L)                        (1)     in general Jᵀ ∂C/∂a with J = ∂a/∂z
    ∂C/∂b = δ                                    (2)(5)
    ∂C/∂W = δ aᵀ                                 (3)(6)
    δ^l = (W^{l+1})ᵀ δ^{l+1} ⊙ σ'(z^l)           (4)

Shapes: W [E..., n, m], b [E..., n, 1], a [E..., n, B]; the letters are defined in :mod:`engine.arrays`. δ is kept per
example; gradients are averages over the batch (section 1.6 of the derivation). Each member of a stack has the same
numbers, byte for byte, as the same network alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from engine.activations import Activation
from engine.arrays import Array, store
from engine.blocks import Block, Parameter, flatten, require_matching_sizes
from engine.costs import Cost


class Dense(Block):
    """A fully connected layer, a = σ(W a_in + b).

    Attributes:
        number: l, from 1 at the input to L at the output.
        W, b, dW, db: Weights [E..., n, m], biases [E..., n, 1] and their gradients, views into theta and grad.
        a_in, z, a: Input [E..., m, B], weighted input and activation [E..., n, B] of the last forward pass.
        delta: δ = ∂C/∂z [E..., n, B] of the last backward pass, per example and not divided by B.
    """

    number: int
    W: Array
    b: Array
    dW: Array
    db: Array
    a_in: Array
    z: Array
    delta: Array
    _average: Array
    _dC_da_in: Array

    def __init__(self, n_in: int, n_out: int, sigma: Activation) -> None:
        if n_in < 1 or n_out < 1:
            raise ValueError(f"{'n_in' if n_in < 1 else 'n_out'}={min(n_in, n_out)}: must be >= 1")
        self.n_in, self.n_out, self.sigma = n_in, n_out, sigma
        self.parameters = Parameter("W", (n_out, n_in), is_weight=True), Parameter("b", (n_out, 1))

    def forward(self, a_in: Array, training: bool = True) -> Array:
        self.a_in = a_in
        z = np.matmul(self.W, a_in, out=self.z)
        z += self.b  # z = W a + b
        return store(self.sigma.value(z, out=self.a), self.a)  # a = σ(z)

    def backward(self, dC_da: Array) -> None:
        self.backward_from(self.sigma.pull_back(self.z, self.a, dC_da, out=self.delta))  # (1)(4): δ = ∂C/∂a ⊙ σ'(z)

    def backward_from(self, delta: Array) -> None:
        """Compute the parameter gradients from δ [E..., n, B]."""
        store(delta, self.delta)
        average = np.multiply(self.delta, 1 / delta.shape[-1], out=self._average)  # δ/B: gradients are batch averages
        np.add.reduce(average, axis=-1, keepdims=True, out=self.db)  # (2)(5): ∂C/∂b = δ
        np.matmul(average, self.a_in.mT, out=self.dW)  # (3)(6): ∂C/∂W = δ aᵀ

    def input_gradient(self) -> Array:
        return np.matmul(self.W.mT, self.delta, out=self._dC_da_in)  # (4): ∂C/∂a_in = Wᵀ δ

    def jacobian(self) -> Array:
        return self.sigma.jacobian(self.z, self.a) @ self.W[..., None, :, :]

    def buffers(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        unit_arrays = dict.fromkeys(("z", "a", "delta", "_average"), (self.n_out, batch_size))
        return {**unit_arrays, "_dC_da_in": (self.n_in, batch_size)}

    def twin(self) -> Dense:
        return Dense(self.n_in, self.n_out, self.sigma)


class Network:
    """A sequence of blocks that ends with a :class:`Dense` layer, with all parameters in one flat vector.

    Args:
        blocks: Blocks from input to output; a block belongs to one network only.
        ensemble: Shape E... of the stack, () for a single network.
        dtype: Type of parameters and activations.
        theta: Parameters [E..., P] to use without a copy; by default a new array of initial values.

    Attributes:
        theta, grad, update: Parameters, ∂C/∂θ and the optimizer's proposed Δθ, flat [E..., P]. The weights of all
            layers come first, then all other parameters, each in forward order.
        modules: All blocks in forward order, each before the blocks inside it.
        layers: The Dense layers 1 ... L among the modules.
        x: Input of the last forward pass.

    Raises:
        ValueError: If sizes do not match, the last block is not Dense, or ``theta`` has another shape.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        ensemble: Sequence[int] = (),
        dtype: DTypeLike = np.float64,
        theta: Array | None = None,
    ) -> None:
        self.blocks, self.ensemble, self.dtype = tuple(blocks), tuple(ensemble), np.dtype(dtype)
        require_matching_sizes(self.blocks)
        if not self.blocks or not isinstance(self.blocks[-1], Dense):
            raise ValueError("blocks: the last one must be a Dense layer")
        self.output = self.blocks[-1]
        self.modules = list(flatten(self.blocks))
        self.layers = [block for block in self.modules if isinstance(block, Dense)]
        for number, layer in enumerate(self.layers, start=1):
            layer.number = number
        self._place_parameters(theta)
        self.batch_size = 0
        self._buffers: dict[int, list[dict[str, Array]]] = {}
        self._twins: dict[str, Network] = {}

    x: Array

    @classmethod
    def mlp(
        cls,
        sizes: Sequence[int],
        activations: Sequence[Activation],
        ensemble: Sequence[int] = (),
        dtype: DTypeLike = np.float64,
    ) -> Network:
        """Return a multilayer perceptron with n_0, ..., n_L units and the activations of layers 1 ... L."""
        blocks = [Dense(m, n, sigma) for (m, n), sigma in zip(pairwise(sizes), activations, strict=True)]
        return cls(blocks, ensemble, dtype)

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def forward(self, x: Array, training: bool = True) -> Array:
        """Compute a^L [E..., n_L, B] from the input x [E..., n_0, B] (or [n_0, B], shared by all members).

        The next pass with the same B overwrites the result. Infinities and NaNs pass through.
        """
        self.resize(x.shape[-1])
        self.x = a = x.astype(self.dtype, casting="same_kind", copy=False)
        for block in self.blocks:
            a = block.forward(a, training)
        return a

    @np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
    def backward(self, y: Array, cost: Cost) -> Array:
        """Overwrite ``grad`` with ∂C/∂θ for the targets y [E..., n_L, B] of the last forward pass, and return it."""
        top = self.output
        return self._carry_down(cost.delta(top.sigma, top.z, top.a, y, out=top.delta))  # (1)

    @np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
    def backward_from(self, delta: Array) -> Array:
        """Overwrite ``grad`` with ∂C/∂θ for a given δ^L [E..., n_L, B], and return it."""
        return self._carry_down(delta)

    def _carry_down(self, delta: Array) -> Array:
        self.output.backward_from(delta)
        for above, block in pairwise(reversed(self.blocks)):
            block.backward(above.input_gradient())
        return self.grad

    @np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
    def cost(self, y: Array, cost: Cost) -> Array:
        """Return C of every example [E..., B] after a forward pass."""
        return cost.of_output(self.output.sigma, self.output.z, self.output.a, y)

    @property
    def members(self) -> int:
        """Return the number of networks in the stack (1 for a single network)."""
        return math.prod(self.ensemble)

    def twin(self, purpose: str) -> Network:
        """Return the twin for this purpose: a network that shares θ and state but has its own buffers and gradients."""
        if purpose not in self._twins:
            self._twins[purpose] = self.like(self.theta)
        return self._twins[purpose]

    def like(self, theta: Array) -> Network:
        """Return a network of twin blocks that shares the state and uses ``theta`` [E..., P] in its dtype."""
        network = Network([block.twin() for block in self.blocks], self.ensemble, theta.dtype, theta)
        for block, twin in zip(self.modules, network.modules, strict=True):
            twin.share_state(block)
        return network

    def state(self) -> dict[str, Array]:
        """Return the state of all blocks, by block number and name."""
        return {f"block_{i}.{name}": x for i, block in enumerate(self.modules) for name, x in block.state().items()}

    def update_state(self) -> None:
        """Update the state of every block from the last forward pass of training."""
        for block in self.modules:
            block.update_state()

    def _place_parameters(self, theta: Array | None) -> None:
        parameters = [parameter for block in self.modules for parameter in block.parameters]
        self.parameters = sorted(parameters, key=lambda parameter: not parameter.is_weight)
        end = 0
        for parameter in self.parameters:
            start, end = end, end + math.prod(parameter.shape)
            parameter.place = slice(start, end)
        self.n_weights = sum(math.prod(parameter.shape) for parameter in parameters if parameter.is_weight)
        if theta is not None and theta.shape != (*self.ensemble, end):
            raise ValueError(f"theta: shape {theta.shape}; must be {(*self.ensemble, end)}")
        self.theta = np.zeros((*self.ensemble, end), self.dtype) if theta is None else theta
        self.grad, self.update = np.zeros_like(self.theta), np.zeros_like(self.theta)
        for parameter in self.parameters:
            parameter.value, parameter.grad, parameter.update = map(
                parameter.view, (self.theta, self.grad, self.update)
            )
            if theta is None:
                parameter.value[...] = parameter.initial
        for block in self.modules:
            block.bind(self.ensemble, self.dtype)

    def resize(self, batch_size: int) -> None:
        """Assign to every block its buffers for this batch size, allocated at first use."""
        if batch_size == self.batch_size:
            return
        if batch_size not in self._buffers:
            shapes = [block.buffers(batch_size) for block in self.modules]
            self._buffers[batch_size] = [
                {name: np.empty((*self.ensemble, *shape), self.dtype) for name, shape in block_shapes.items()}
                for block_shapes in shapes
            ]
        for block, buffers in zip(self.modules, self._buffers[batch_size], strict=True):
            vars(block).update(buffers)
        self.batch_size = batch_size
