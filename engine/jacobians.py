"""The derivation's second world (section 2.5): explicit Jacobians, row gradients, products of matrices.

Here gradients are rows and ∂a/∂z is the full Jacobian, so the chain rule reads from left to right:

    δ^L = ∂C/∂a^L · ∂a^L/∂z^L                                1×n = (1×n)(n×n)
    δ^l = δ^{l+1} · ∂z^{l+1}/∂a^l · ∂a^l/∂z^l                1×m = (1×n)(n×m)(m×m)
    ∂C/∂W^l = δ^l · ∂z^l/∂W^l                                1×nm = (1×n)(n×nm)

It is slow on purpose: the oracle for :mod:`engine.network`, the maker of the input-output Jacobian, and a teaching
trace. All functions read a network after a forward pass; nothing in it is changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.arrays import Array
from engine.costs import Cost
from engine.network import Layer, Network


@dataclass(frozen=True)
class RowGradients:
    """The gradients of one layer in the second world.

    Attributes:
        dC_da: ∂C/∂a^l of each example, a row: [E..., B, 1, n].
        da_dz: the Jacobian ∂a^l/∂z^l: [E..., B, n, n].
        delta: δ^l = ∂C/∂z^l, a row: [E..., B, 1, n].
        dW: ∂C/∂W averaged over the batch, [E..., n, m].
        db: ∂C/∂b averaged over the batch, a row: [E..., 1, n].
    """

    dC_da: Array
    da_dz: Array
    delta: Array
    dW: Array
    db: Array


def activation_jacobian(layer: Layer) -> Array:
    """∂a/∂z of every example: [E..., B, n, n]; diagonal for an element-wise σ, full for softmax."""
    return layer.sigma.jacobian(layer.z, layer.a)


def weight_jacobian(layer: Layer) -> Array:
    """∂z/∂W with W flattened row by row: [E..., B, n, n·m]; ∂z_i/∂W_jk = a_k where i = j, else 0."""
    a = np.swapaxes(layer.a_in, -1, -2)
    n, m = layer.W.shape[-2], a.shape[-1]
    same_unit = np.eye(n, dtype=a.dtype)[:, :, None]
    return (same_unit * a[..., None, None, :]).reshape(*a.shape[:-1], n, n * m)


def row_gradients(network: Network, y: Array, cost: Cost) -> list[RowGradients]:
    """Every gradient of the last forward pass by products of explicit Jacobians; layers 1 ... L in order."""
    top = network.layers[-1]
    columns = cost.gradient(top.a, y)
    dC_da = np.swapaxes(columns, -1, -2)[..., None, :]
    found: list[RowGradients] = []
    for layer in reversed(network.layers):
        da_dz = activation_jacobian(layer)
        delta = dC_da @ da_dz
        dW = (delta @ weight_jacobian(layer)).mean(axis=-3)
        db = delta.mean(axis=-3)
        found.append(RowGradients(dC_da, da_dz, delta, dW.reshape(layer.W.shape), db))
        dC_da = delta @ layer.W[..., None, :, :]
    return found[::-1]


def layer_jacobian(layer: Layer) -> Array:
    """∂a^l/∂a^{l−1} = ∂a/∂z · W of every example: [E..., B, n, m]."""
    return activation_jacobian(layer) @ layer.W[..., None, :, :]


def input_output_jacobian(network: Network, output: str = "a") -> Array:
    """∂a^L/∂x (or ∂z^L/∂x) of every example: [E..., B, n_L, n_0], the product of all layer Jacobians.

    Args:
        output: "a" for the activations of the last layer, "z" for its weighted inputs.

    Raises:
        ValueError: any other ``output``.
    """
    if output not in ("a", "z"):
        raise ValueError(f"output={output!r}: must be 'a' or 'z'")
    last = network.layers[-1]
    product = layer_jacobian(last) if output == "a" else last.W[..., None, :, :]
    for layer in reversed(network.layers[:-1]):
        product = product @ layer_jacobian(layer)
    return product
