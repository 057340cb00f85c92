"""Measure a PyTorch model with hooks, and get the verdict on it.

Twelve sigmoid layers on scikit-learn's digits. :class:`Meter` reads δ from hooks, whatever the loop around it.
``python examples/pytorch_hooks.py`` prints the verdict; nothing is written. It needs PyTorch.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn

from pipeline import diagnose


class Meter:
    """Measures the linear layers of a model, in the order in which the model has them.

    The loss must be a mean over the batch. Its gradient by an example's z is then δ/B, so δ is B times as large.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._gradients: dict[nn.Module, torch.Tensor] = {}
        for layer in self.layers:
            layer.register_forward_hook(self._watch)

    def _watch(self, layer: nn.Module, inputs: Any, z: torch.Tensor) -> None:
        if z.requires_grad:
            z.register_hook(lambda gradient: self._gradients.update({layer: gradient}))  # ∂(mean loss)/∂z [B, n]

    def rows(self, step: int, replicate: int = 0) -> list[dict[str, Any]]:
        """Return the rows of the table for a step. Call it after ``loss.backward()``."""
        rows = []
        for number, layer in enumerate(self.layers, start=1):
            gradient = self._gradients[layer]
            delta = gradient * len(gradient)
            rms = delta.square().sum(dim=1).mean().sqrt().item()
            place = {"step": step, "layer": number, "replicate": replicate}
            rows.append({**place, "delta_rms": rms, "gradient_norm": layer.weight.grad.norm().item()})
        return rows


def train(seed: int, steps: int = 200, every: int = 20) -> list[dict[str, Any]]:
    """Train one network, and return the rows of its table."""
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    x = torch.tensor((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9), dtype=torch.float32)
    y = torch.tensor(y)
    hidden = [part for _ in range(11) for part in (nn.Linear(30, 30), nn.Sigmoid())]
    model = nn.Sequential(nn.Linear(64, 30), nn.Sigmoid(), *hidden, nn.Linear(30, 10))
    meter, optimizer = Meter(model), torch.optim.SGD(model.parameters(), lr=0.5)
    rows: list[dict[str, Any]] = []
    for step in range(steps + 1):
        batch = torch.randint(0, len(x), (32,))
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        if step % every == 0:
            rows += [*meter.rows(step, seed), {"step": step, "replicate": seed, "cost_train": loss.item()}]
        optimizer.step()
    return rows


if __name__ == "__main__":
    table = pd.DataFrame([row for seed in range(3) for row in train(seed)])
    result = diagnose(table, name="PyTorch", track=False)
    print(result)
    print(result.explanation)
