"""One cell the customary way: a process of its own, PyTorch eager, ``mlflow.log_metrics`` in each step.

``python -m benchmarks.customary_cell LEARNING_RATE SEED DATABASE STEPS``. The network is 784-30-30-10 with tanh, in
batches of 32. The inputs are random, so this cell reads no data set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

import mlflow
import torch

SIZES = (784, 30, 30, 10)
EXAMPLES, BATCH = 4096, 32


def main(arguments: Sequence[str]) -> int:
    """Train and log one cell."""
    learning_rate, seed, steps = float(arguments[0]), int(arguments[1]), int(arguments[3])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    mlflow.set_tracking_uri(f"sqlite:///{arguments[2]}")
    mlflow.set_experiment("customary")
    modules: list[torch.nn.Module] = []
    for inputs, outputs in pairwise(SIZES):
        modules += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    network = torch.nn.Sequential(*modules[:-1])
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
    x, labels = torch.randn(EXAMPLES, SIZES[0]), torch.randint(0, SIZES[-1], (EXAMPLES,))
    with mlflow.start_run():
        mlflow.log_params({"learning_rate": learning_rate, "seed": seed})
        for step in range(steps):
            rows = torch.randint(0, EXAMPLES, (BATCH,))
            cost = torch.nn.functional.cross_entropy(network(x[rows]), labels[rows])
            optimizer.zero_grad()
            cost.backward()
            weights = [p for p in network.parameters() if p.dim() == 2]
            metrics = {f"gradient_norm/layer_{i:02d}": float(w.grad.norm()) for i, w in enumerate(weights, 1)}
            optimizer.step()
            mlflow.log_metrics(metrics | {"cost": float(cost)}, step=step)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
