"""A training loop of one's own, in plain NumPy, and the verdict on it.

Twelve sigmoid layers on scikit-learn's digits, three networks that differ in the seed only. The loop keeps what
docs/how-to/python.md lists: δ and the weight gradient of each layer, and the training cost.
``python examples/numpy_loop.py`` prints the verdict; nothing is written.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from pipeline import diagnose

Array = NDArray[np.float64]
SIZES = [64] + [30] * 12 + [10]
STEPS, BATCH, RATE, EVERY = 200, 32, 0.5, 20


def sigmoid(z: Array) -> Array:
    """Return σ(z)."""
    return 1 / (1 + np.exp(-z))


def backpropagate(
    weights: list[Array], biases: list[Array], x: Array, y: Array
) -> tuple[list[Array], list[Array], list[Array], float]:
    """Return δ of each layer [B, n], the gradients of weights and biases, and the mean cost of a batch."""
    activations = [x]
    for W, b in zip(weights, biases, strict=True):
        activations.append(sigmoid(activations[-1] @ W.T + b))
    a = activations[-1]
    delta = a - y  # ∂C/∂z of one example, for the cross-entropy of sigmoid outputs
    deltas, weight_gradients, bias_gradients = [], [], []
    for layer in reversed(range(len(weights))):
        deltas.insert(0, delta)
        weight_gradients.insert(0, delta.T @ activations[layer] / len(x))
        bias_gradients.insert(0, delta.mean(axis=0))
        a_in = activations[layer]
        delta = (delta @ weights[layer]) * a_in * (1 - a_in)
    cost = -(y * np.log(a) + (1 - y) * np.log(1 - a)).sum(axis=1).mean()
    return deltas, weight_gradients, bias_gradients, cost


def train(seed: int) -> list[dict[str, Any]]:
    """Train one network, and return the rows of its table."""
    rng = np.random.default_rng(seed)
    x, classes = load_digits(return_X_y=True)
    x, y = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9), np.eye(10)[classes]
    weights = [rng.normal(0, m**-0.5, (n, m)) for m, n in pairwise(SIZES)]
    biases = [np.zeros(n) for n in SIZES[1:]]
    rows: list[dict[str, Any]] = []
    for step in range(STEPS + 1):
        batch = rng.integers(0, len(x), BATCH)
        deltas, weight_gradients, bias_gradients, cost = backpropagate(weights, biases, x[batch], y[batch])
        if step % EVERY == 0:
            rows.append({"step": step, "replicate": seed, "cost_train": cost})
            for layer, (delta, gradient) in enumerate(zip(deltas, weight_gradients, strict=True), start=1):
                rms = np.sqrt(np.square(delta).sum(axis=1).mean())  # of one example: δ is not divided by the batch size
                place = {"step": step, "layer": layer, "replicate": seed}
                rows.append({**place, "delta_rms": rms, "gradient_norm": np.linalg.norm(gradient)})
        for W, b, dW, db in zip(weights, biases, weight_gradients, bias_gradients, strict=True):
            W -= RATE * dW
            b -= RATE * db
    return rows


if __name__ == "__main__":
    table = pd.DataFrame([row for seed in range(3) for row in train(seed)])
    result = diagnose(table, name="NumPy loop", track=False)
    print(result)
    print(result.explanation)
