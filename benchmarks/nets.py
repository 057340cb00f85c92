"""The six nets on which one training step is timed: from the derivation's size to where BLAS is all that counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Net:
    """A fully connected net with a softmax output, its batch, and what is promised of it.

    Attributes:
        name: as people write it.
        sizes: units per layer, input first.
        activation: of the hidden layers, an option of conf/activation.
        batch: B.
        promised: a step takes at most 1/promised of PyTorch's time.
    """

    name: str
    sizes: tuple[int, ...]
    activation: str
    batch: int
    promised: float


NETS = (
    Net("784-30-10", (784, 30, 10), "sigmoid", 10, 4.0),
    Net("784-30×4-10", (784, *[30] * 4, 10), "sigmoid", 10, 4.0),
    Net("64-10×20-10", (64, *[10] * 20, 10), "relu", 32, 4.0),
    Net("64-64×50-10", (64, *[64] * 50, 10), "tanh", 64, 1.0),
    Net("784-256×10-10", (784, *[256] * 10, 10), "relu", 128, 1.0),
    Net("784-1024×3-10", (784, *[1024] * 3, 10), "relu", 128, 1.0),
)
DTYPES = ("float32", "float64")
