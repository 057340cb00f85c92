"""The six networks of the benchmarks, from the derivation's size to sizes at which only BLAS matters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Net:
    """A fully connected network with a softmax output, its batch size, and its claims of speed.

    Attributes:
        name: The name in tables.
        sizes: The units of each layer, the input first.
        activation: The activation of the hidden layers, an option of conf/activation.
        batch: The batch size B.
        against: The step to compare with, "tutorial" or "PyTorch" (the fastest way).
        promised: The least ratio of the compared step's time to ours.
        over_bare: The largest ratio of our time to the bare products. None for no claim.
    """

    name: str
    sizes: tuple[int, ...]
    activation: str
    batch: int
    against: str
    promised: float
    over_bare: float | None


NETS = (
    Net("784-30-10", (784, 30, 10), "sigmoid", 10, "tutorial", 3.5, None),
    Net("784-30×4-10", (784, *[30] * 4, 10), "sigmoid", 10, "tutorial", 3.5, None),
    Net("64-10×20-10", (64, *[10] * 20, 10), "relu", 32, "tutorial", 3.5, None),
    Net("64-64×50-10", (64, *[64] * 50, 10), "tanh", 64, "PyTorch", 1.0, None),
    Net("784-256×10-10", (784, *[256] * 10, 10), "relu", 128, "PyTorch", 1.0, 1.15),
    Net("784-1024×3-10", (784, *[1024] * 3, 10), "relu", 128, "PyTorch", 1.0, 1.15),
)
DTYPES = ("float32", "float64")
