"""When to end a training before its last step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValidationCost:
    """Stop when the validation cost no longer falls (:mod:`pipeline.training.patience`).

    Args:
        patience: Number of evaluations without an improvement after which a replicate is done.
        min_delta: The least fall of the cost below its lowest value that counts as an improvement.

    Raises:
        ValueError: A value is outside its range.
    """

    patience: int
    min_delta: float

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience={self.patience}: must be >= 1 evaluation")
        if not 0 <= self.min_delta < float("inf"):
            raise ValueError(f"min_delta={self.min_delta}: must be >= 0 and finite")
