"""The examples: what they measure is what the engine measures, and their verdicts are right."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine import probes
from engine.activations import Sigmoid
from engine.costs import CrossEntropy
from engine.network import Network
from pipeline import diagnose
from pipeline.paths import PROJECT
from tools import notebook

EXAMPLES = PROJECT / "examples"
QUICKSTART = EXAMPLES / "quickstart.ipynb"


def test_numpy_loop_measures_what_the_engine_measures() -> None:
    """Oracle: the engine, with the weights and the batch of the example."""
    example = runpy.run_path(str(EXAMPLES / "numpy_loop.py"))
    sizes, rng = [5, 4, 3, 2], np.random.default_rng(0)
    network = Network.mlp(sizes, [Sigmoid()] * 3)
    network.theta[...] = rng.normal(size=network.theta.shape)
    x, y = rng.normal(size=(7, 5)), rng.uniform(size=(7, 2))
    network.forward(x.T)
    network.backward(y.T, CrossEntropy())
    weights, biases = ([getattr(layer, name) for layer in network.layers] for name in ("W", "b"))
    found = example["backpropagate"](weights, [b[:, 0] for b in biases], x, y)
    for layer, delta, dW, db in zip(probes.Step(network).layers, *found[:3], strict=True):
        np.testing.assert_allclose(delta, layer.delta.T, rtol=1e-12)
        np.testing.assert_allclose(dW, layer.dW, rtol=1e-12)
        np.testing.assert_allclose(db, layer.db[:, 0], rtol=1e-12)
        assert np.sqrt(np.square(delta).sum(axis=1).mean()) == pytest.approx(float(probes.delta_rms(layer)))


def test_numpy_loop_has_the_verdict_of_its_network() -> None:
    example = runpy.run_path(str(EXAMPLES / "numpy_loop.py"))
    table = pd.DataFrame([row for seed in range(3) for row in example["train"](seed)])
    assert diagnose(table, track=False).verdict == "vanishing"


@pytest.mark.thorough
def test_pytorch_hooks_measure_a_model_where_pytorch_is_installed() -> None:
    """Oracle: δ of the last layer of a softmax with cross-entropy is a − y."""
    torch = pytest.importorskip("torch")
    example = runpy.run_path(str(EXAMPLES / "pytorch_hooks.py"))
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 2))
    meter, x, y = example["Meter"](model), torch.randn(6, 4), torch.randint(0, 2, (6,))
    z = model(x)
    torch.nn.functional.cross_entropy(z, y).backward()
    delta = torch.softmax(z, dim=1) - torch.nn.functional.one_hot(y, 2)
    first, last = meter.rows(step=3, replicate=1)
    assert last["delta_rms"] == pytest.approx(delta.square().sum(dim=1).mean().sqrt().item(), rel=1e-5)
    assert (first["step"], first["layer"], first["replicate"]) == (3, 1, 1)
    table = pd.DataFrame([row for seed in range(2) for row in example["train"](seed, steps=20)])
    assert diagnose(table, track=False).verdict.startswith("vanishing")


def words(outputs: list[dict[str, Any]]) -> list[str]:
    """Return the forms and the plain texts of a cell's outputs, without numbers, run ids and layout."""
    found = []
    for output in outputs:
        data = output.get("data", {})
        text = "".join(output.get("text", data.get("text/plain", [])))
        found += [*data, " ".join(re.sub(r"\b[0-9a-f]{8,}\b|[-+\d.,\[\]]+(e[-+]\d+)?", " ", text).split())]
    return found


def test_saved_notebook_has_the_outputs_of_a_whole_run() -> None:
    cells = [cell for cell in json.loads(QUICKSTART.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])


@pytest.mark.thorough
def test_quickstart_runs_and_says_what_was_saved(tmp_path: Path) -> None:
    saved, copy = json.loads(QUICKSTART.read_text("utf-8")), tmp_path / "copy.ipynb"
    copy.write_text(json.dumps(saved))
    subprocess.run([sys.executable, "-m", "tools.notebook", str(copy)], cwd=PROJECT, check=True)
    done = json.loads(copy.read_text("utf-8"))
    for before, after in zip(saved["cells"], done["cells"], strict=True):
        refresh = f"cell {before['id']}: run python -m tools.notebook examples/quickstart.ipynb"
        assert words(after.get("outputs", [])) == words(before.get("outputs", [])), refresh


def cell(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "id": "c", "metadata": {}, "execution_count": None, "outputs": [], "source": [source]}


def test_cells_share_a_namespace_and_show_their_last_expression() -> None:
    sources = ["x = 2", "print('two')\nx + 1", "", "import pandas\npandas.DataFrame({'a': [x]})"]
    done = notebook.run_notebook({"cells": [cell(source) for source in sources], "nbformat": 4})
    first, second, third, fourth = (c["outputs"] for c in done["cells"])
    assert first == third == []
    assert [o["output_type"] for o in second] == ["stream", "execute_result"]
    assert second[0]["text"] == ["two\n"]
    assert second[1]["data"] == {"text/plain": ["3"]}
    assert set(fourth[0]["data"]) == {"text/plain", "text/html"}


def test_notebook_whose_cell_fails_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps({"cells": [cell("print('one')"), cell("1 / 0")]}))
    before = path.read_text()
    command = [sys.executable, "-m", "tools.notebook", str(path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cell 2" in done.stderr
    assert path.read_text() == before
