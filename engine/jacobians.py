"""The derivation's second world (section 2.5): explicit Jacobians, gradients as rows, matrix products.

Gradients are rows and ∂a/∂z is the full Jacobian, so the chain rule reads from left to right:

    δ^L = ∂C/∂a^L · ∂a^L/∂z^L                                1×n = (1×n)(n×n)
    δ^l = δ^{l+1} · ∂z^{l+1}/∂a^l · ∂a^l/∂z^l                1×m = (1×n)(n×m)(m×m)
    ∂C/∂W^l = δ^l · ∂z^l/∂W^l                                1×nm = (1×n)(n×nm)

This slow form is the oracle for :mod:`engine.network`, and serves the input-output Jacobian and the trace. All
functions read a network after a forward pass and do not change it. Blocks other than Dense enter with their own
Jacobian, ∂C/∂a · ∂a/∂a_in; a residual block with 1 + s ∂f/∂x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.arrays import Array
from engine.blocks import Block
from engine.costs import Cost
from engine.network import Dense, Network
from engine.residual import Residual


@dataclass(frozen=True)
class RowGradients:
    """Gradients of one layer in the second world.

    Attributes:
        dC_da: ∂C/∂a^l of each example, a row [E..., B, 1, n].
        da_dz: Jacobian ∂a^l/∂z^l of each example [E..., B, n, n].
        delta: δ^l = ∂C/∂z^l of each example, a row [E..., B, 1, n].
        dW: ∂C/∂W^l, averaged over the batch [E..., n, m].
        db: ∂C/∂b^l, averaged over the batch, a row [E..., 1, n].
    """

    dC_da: Array
    da_dz: Array
    delta: Array
    dW: Array
    db: Array


def activation_jacobian(layer: Dense) -> Array:
    """Return ∂a/∂z of every example [E..., B, n, n], diagonal for an element-wise σ and full for softmax."""
    return layer.sigma.jacobian(layer.z, layer.a)


def weight_jacobian(layer: Dense) -> Array:
    """Return ∂z/∂W of every example [E..., B, n, n·m], W flattened by rows: ∂z_i/∂W_jk = a_k where i = j, else 0."""
    a = np.swapaxes(layer.a_in, -1, -2)
    n, m = layer.W.shape[-2], a.shape[-1]
    same_unit = np.eye(n, dtype=a.dtype)[:, :, None]
    return (same_unit * a[..., None, None, :]).reshape(*a.shape[:-1], n, n * m)


def row_gradients(network: Network, y: Array, cost: Cost) -> list[RowGradients]:
    """Compute the gradients of layers 1 ... L for the last forward pass, as products of explicit Jacobians."""
    top = network.output
    dC_da = np.swapaxes(cost.gradient(top.a, y), -1, -2)[..., None, :]
    gradients: list[RowGradients] = []
    _carry_down(network.blocks, dC_da, gradients)
    return gradients[::-1]


def _carry_down(blocks: Sequence[Block], dC_da: Array, gradients: list[RowGradients]) -> Array:
    """Return ∂C/∂a_in of blocks from their ∂C/∂a [E..., B, 1, n], and append their layers' gradients, top first."""
    for block in reversed(blocks):
        if isinstance(block, Dense):
            da_dz = activation_jacobian(block)
            delta = dC_da @ da_dz
            dW = (delta @ weight_jacobian(block)).mean(axis=-3).reshape(block.W.shape)
            gradients.append(RowGradients(dC_da, da_dz, delta, dW, delta.mean(axis=-3)))
            dC_da = delta @ block.W[..., None, :, :]
        elif isinstance(block, Residual):
            dC_da = dC_da + _carry_down(block.blocks, block.scale * dC_da, gradients)
        else:
            dC_da = dC_da @ block.jacobian()
    return dC_da


def input_output_jacobian(network: Network, output: str = "a") -> Array:
    """Return ∂a^L/∂x or ∂z^L/∂x of every example [E..., B, n_L, n_0], the product of all layer Jacobians.

    Args:
        network: Network after a forward pass.
        output: "a" for the activations of the last layer, "z" for its weighted inputs.

    Raises:
        ValueError: If ``output`` has another value, or a block has no Jacobian.
    """
    if output not in ("a", "z"):
        raise ValueError(f"output={output!r}: must be 'a' or 'z'")
    top = network.output
    product = top.jacobian() if output == "a" else top.W[..., None, :, :]
    for block in reversed(network.blocks[:-1]):
        product = product @ block.jacobian()
    return product
