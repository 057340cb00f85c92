"""A small network's forward and backward pass, step by step, with shapes, in both of the derivation's conventions.

The default is the two worked examples, each compared with the numbers that the derivation prints. Any other config is
traced on the first example of its first batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.arrays import Array
from engine.costs import Cost
from engine.jacobians import RowGradients, row_gradients
from engine.network import Dense, Network
from pipeline.config import schema as configs
from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.training.prepare import PreparedRun, build_network, prepare_run
from pipeline.training.trainer import first_batch

EXAMPLES = ("worked_example_1", "worked_example_2")
PRINTED = PROJECT / "experiments" / "worked_examples" / "printed.yaml"
LARGEST = 16  # units of a layer; a larger matrix does not fit on a screen
WORLDS = """\
The pass is computed twice, in the two notations of section 2.5.
First world: gradients are columns, and δ = ∂C/∂a ⊙ σ'(z), unit by unit.
Second world: gradients are rows, and δ = ∂C/∂a · ∂a/∂z, with whole Jacobians.
"""
DERIVATION = """\
Followed here is the text "Backpropagation": from a chain of single neurons
(section 1) to layers of any size (2), equations (1) to (6) together (3, 4), and
two networks by hand (5): sigmoid everywhere, C = ½‖a − y‖². They are traced.
Sections 1 to 2.4 have another cost, C = Σ(a − y)², and so a factor 2 in
equation (1): cost=squared_error.
"""


@dataclass(frozen=True)
class Misprint:
    """A wrong number in the derivation."""

    quantity: str
    layer: int
    entry: tuple[int, ...]
    printed: float
    correct: float

    def __str__(self) -> str:
        sign = " (the sign is wrong)" if self.printed * self.correct < 0 else ""
        entry = ", ".join(str(i + 1) for i in self.entry)
        return f"{self.quantity}^{self.layer} [{entry}]: printed {self.printed:g}, correct {self.correct:.4f}{sign}"


@dataclass(frozen=True)
class Trace:
    """A traced pass as text."""

    title: str
    text: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the trace, line by line."""
        return list(self.text)


def trace(overrides: Sequence[str], config_dir: str | None) -> list[Trace]:
    """Trace a config. Without overrides trace both worked examples, and list the misprints of the derivation.

    Args:
        overrides: Hydra overrides.
        config_dir: A folder with config groups of the user's own.

    Raises:
        ConfigError: If the config is invalid or the network too large to print.
    """
    if overrides:
        return [_trace(compose_run([*overrides], config_dir), None)]
    printed = yaml.safe_load(Path(PRINTED).read_text(encoding="utf-8"))
    formulas = ("Misprints in the text of the derivation:", *(f"  {sentence}" for sentence in printed["formulas"]))
    return [
        Trace("the derivation", tuple(DERIVATION.splitlines())),
        *(_trace(compose_run([f"experiment={name}"], config_dir), printed[name]) for name in EXAMPLES),
        Trace("misprints", formulas),
    ]


def _trace(raw_config: Mapping[str, Any], printed: Mapping[str, Any] | None) -> Trace:
    run = prepare_run(configs.build({**raw_config, "replicates": 1}))
    if max(run.sizes) > LARGEST:
        raise ConfigError(
            f"architecture: layers {run.sizes} are too large to print; at most {LARGEST} units each "
            "(try data=iris architecture.hidden=[3])"
        )
    network, y = _pass(run)
    title = f"{raw_config.get('name') or 'trace'}: layers {'-'.join(map(str, run.sizes))}"
    differences = comparison(network, printed) if printed is not None else ()
    return Trace(title, (*WORLDS.splitlines(), *lines(network, y, run), *differences))


def _pass(run: PreparedRun) -> tuple[Network, Array]:
    """Run a pass over one example with the network of the first replicate. Return the network and the target."""
    stack = build_network(run)
    network = Network([block.twin() for block in stack.blocks], (), stack.dtype, stack.theta[0])
    row = first_batch(run)[0, :1]
    y = run.data.y[row].mT
    network.forward(run.data.x[row].mT)
    network.backward(y, run.config.cost)
    return network, y


def lines(network: Network, y: Array, run: PreparedRun) -> Iterator[str]:
    """Yield the trace of a pass, line by line."""
    cost = run.config.cost
    rows = row_gradients(network, y, cost)
    first, top = network.layers[0], network.layers[-1]
    yield f"activations {', '.join(type(layer.sigma).__name__ for layer in network.layers)}; cost {type(cost).__name__}"
    yield from _show("x = a^0", first.a_in)
    yield from _show("y", y)
    yield "\nForward: z = W a + b, a = σ(z)"
    for layer in network.layers:
        yield from _forward(layer)
    yield f"C = {float(network.cost(y, cost)[0]):.10g}"
    yield "\nBackward, first world: gradients are columns, ⊙ σ'(z)"
    dC_da_top = _dC_da_top(top, y, cost)
    for layer in reversed(network.layers):
        yield from _backward(layer, network, dC_da_top)
    yield "\nBackward, second world: gradients are rows, ∂a/∂z is a matrix"
    for layer, row in zip(reversed(network.layers), reversed(rows), strict=True):
        yield from _second_world(layer, row, len(network.layers))
    yield f"largest difference between the two worlds: {_largest_difference(network, rows):.1e}"


def _forward(layer: Dense) -> Iterator[str]:
    i, (n, m) = layer.number, layer.W.shape
    yield from _show(f"W^{i}", layer.W)
    yield from _show(f"b^{i}", layer.b)
    yield from _show(f"z^{i} = W^{i} a^{i - 1} + b^{i}   [{n}×1] = [{n}×{m}][{m}×1] + [{n}×1]", layer.z)
    yield from _show(f"a^{i} = σ(z^{i})", layer.a)


def _backward(layer: Dense, network: Network, dC_da_top: Array | None) -> Iterator[str]:
    i, (n, m) = layer.number, layer.W.shape
    if i == len(network.layers) and dC_da_top is None:
        yield from _show(f"δ^{i} = a^{i} − y   (1), where cost and σ collapse", layer.delta)
    elif dC_da_top is not None and i == len(network.layers):
        yield from _show(f"∂C/∂a^{i}", dC_da_top)
        yield from _show(f"δ^{i} = ∂C/∂a^{i} ⊙ σ'(z^{i})   (1)   (Jᵀ ∂C/∂a if σ is not element-wise)", layer.delta)
    else:
        above = network.layers[i]
        shape = f"[{n}×1] = [{n}×{len(above.W)}][{len(above.W)}×1]"
        yield from _show(f"∂C/∂a^{i} = (W^{i + 1})ᵀ δ^{i + 1}   {shape}", dC_da(network, i))
        yield from _show(f"δ^{i} = (W^{i + 1})ᵀ δ^{i + 1} ⊙ σ'(z^{i})   (4)", layer.delta)
    tags = ("(2)", "(3)") if i == len(network.layers) else ("(5)", "(6)")
    yield from _show(f"∂C/∂b^{i} = δ^{i}   {tags[0]}", layer.db)
    yield from _show(f"∂C/∂W^{i} = δ^{i} (a^{i - 1})ᵀ   {tags[1]}   [{n}×{m}] = [{n}×1][1×{m}]", layer.dW)


def _second_world(layer: Dense, row: RowGradients, depth: int) -> Iterator[str]:
    i, (n, m) = layer.number, layer.W.shape
    how = "" if i == depth else f" = δ^{i + 1} · W^{i + 1}"
    yield from _show(f"∂C/∂a^{i}{how}", row.dC_da[0])
    yield from _show(f"∂a^{i}/∂z^{i}", row.da_dz[0])
    yield from _show(f"δ^{i} = ∂C/∂a^{i} · ∂a^{i}/∂z^{i}   [1×{n}] = [1×{n}][{n}×{n}]", row.delta[0])
    yield from _show(f"∂C/∂W^{i} = δ^{i} · ∂z^{i}/∂W^{i}   [1×{n * m}] = [1×{n}][{n}×{n * m}], as [{n}×{m}]", row.dW)


def _largest_difference(network: Network, rows: Sequence[RowGradients]) -> float:
    pairs = [(layer.dW, row.dW) for layer, row in zip(network.layers, rows, strict=True)]
    pairs += [(layer.db, row.db.mT) for layer, row in zip(network.layers, rows, strict=True)]
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def _show(name: str, matrix: Array) -> Iterator[str]:
    """Yield a name with its shape, and the numbers indented below."""
    text = np.array2string(matrix, precision=6, suppress_small=False, floatmode="maxprec", max_line_width=150)
    yield f"{name}   ({'×'.join(map(str, matrix.shape))})"
    yield "\n".join(f"      {line}" for line in text.splitlines())


@np.errstate(all="ignore")
def _dC_da_top(top: Dense, y: Array, cost: Cost) -> Array | None:
    """Return ∂C/∂a of layer L, or None where cost and σ collapse and δ = a − y."""
    return None if cost.collapses_with is type(top.sigma) else cost.gradient(top.a, y)


@np.errstate(all="ignore")
def dC_da(network: Network, number: int) -> Array:
    """Return ∂C/∂a of a hidden layer after a backward pass: (W^{l+1})ᵀ δ^{l+1} (4)."""
    return network.layers[number].input_gradient()


def misprints(network: Network, printed: Mapping[str, Any]) -> list[Misprint]:
    """Return every printed number that is off by more than one unit of its last decimal."""
    wrong = []
    for quantity, by_layer in printed.items():
        if quantity == "decimals":
            continue
        for number, matrix in by_layer.items():
            layer = network.layers[number - 1]
            correct = dC_da(network, number) if quantity == "dC_da" else getattr(layer, quantity)
            for entry, value in np.ndenumerate(np.array(matrix, dtype=np.float64)):
                if abs(value - correct[entry]) > 1.5 * 10.0 ** -printed["decimals"]:
                    wrong.append(Misprint(quantity, number, entry, float(value), float(correct[entry])))
    return wrong


def comparison(network: Network, printed: Mapping[str, Any]) -> Iterator[str]:
    """Yield the numbers that the derivation prints wrongly."""
    wrong = misprints(network, printed)
    if not wrong:
        yield "\nAs printed in the derivation, to its digits (the last may be off by one)."
        return
    yield f"\nThe derivation prints {len(wrong)} wrong numbers here:"
    yield from (f"  {m}" for m in wrong)
