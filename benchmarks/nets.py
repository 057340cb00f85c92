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
        against: what a step is compared with, "tutorial" or "PyTorch" (its fastest way).
        promised: the other's time over ours, at least.
        over_bare: our time over the bare products, at most; None for no promise.
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
