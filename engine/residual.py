"""Residual block: a shortcut around a sequence of blocks.

    a = x + s f(x)

Since a depends on x directly and through f, the chain rule gives
    ∂C/∂x = ∂C/∂a + s Jᵀ ∂C/∂a,   J = ∂f/∂x,
and the gradient at the output of f is s ∂C/∂a. The first term passes any depth unchanged.
Sources: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2015; for s < 1: De & Smith, "Batch
Normalization Biases Residual Blocks Towards the Identity Function in Deep Networks", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from engine.arrays import Array
from engine.blocks import Block, require_matching_sizes


class Residual(Block):
    """Residual block, a = x + s f(x).

    Args:
        blocks: f, from input to output; it has as many outputs as inputs.
        scale: s, a fixed number.

    Raises:
        ValueError: If there are no blocks, sizes do not match, or the scale is not finite.
    """

    _scaled: Array
    _dC_da_in: Array

    def __init__(self, blocks: Sequence[Block], scale: float = 1.0) -> None:
        if not blocks or blocks[0].n_in != blocks[-1].n_out:
            raise ValueError("blocks: must have as many outputs as inputs")
        require_matching_sizes(blocks)
        if not math.isfinite(scale):
            raise ValueError(f"scale={scale}: must be finite")
        self.blocks, self.scale = tuple(blocks), scale
        self.n_in = self.n_out = blocks[0].n_in

    def forward(self, a_in: Array, training: bool = True) -> Array:
        a = a_in
        for block in self.blocks:
            a = block.forward(a, training)
        np.multiply(a, self.scale, out=self.a)
        return np.add(a_in, self.a, out=self.a)  # x + s f(x)

    def backward(self, dC_da: Array) -> None:
        self.blocks[-1].backward(np.multiply(dC_da, self.scale, out=self._scaled))  # s ∂C/∂a
        for above, block in pairwise(reversed(self.blocks)):
            block.backward(above.input_gradient())
        np.add(dC_da, self.blocks[0].input_gradient(), out=self._dC_da_in)  # ∂C/∂a + s Jᵀ ∂C/∂a

    def input_gradient(self) -> Array:
        return self._dC_da_in

    def jacobian(self) -> Array:
        product = self.blocks[-1].jacobian()
        for block in reversed(self.blocks[:-1]):
            product = product @ block.jacobian()
        return np.eye(self.n_in, dtype=product.dtype) + self.scale * product

    def buffers(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("a", "_scaled", "_dC_da_in"), (self.n_in, batch_size))

    def inner(self) -> Sequence[Block]:
        return self.blocks

    def twin(self) -> Residual:
        return Residual([block.twin() for block in self.blocks], self.scale)
