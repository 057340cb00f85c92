"""The final parameters of a run are an artifact that NumPy alone reads, and from which its scores follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import sweep_command
from support.configs import config
from support.stores import opened, uri

from engine.arrays import Array
from pipeline.tracking.store import download
from pipeline.training.prepare import prepare_run

CELLS = ("data=iris", "activation=tanh", "architecture.hidden=[6,5]", "epochs=2", "replicates=2")


def predictions(path: Path, x: Array, replicate: int) -> Array:
    """Return the outputs of a tanh network with softmax [n_L, B], in plain NumPy."""
    with np.load(path, allow_pickle=False) as file:
        layers = sorted({name.partition("/")[0] for name in file.files})
        a = x.T
        for layer in layers:
            z = file[f"{layer}/W"][replicate] @ a + file[f"{layer}/b"][replicate]
            a = np.tanh(z) if layer != layers[-1] else np.exp(z) / np.exp(z).sum(axis=0)
    return a


def test_scores_follow_from_the_logged_parameters(tmp_path: Path) -> None:
    """Two cells train as one stack; each has the parameters of its own networks."""
    sweep_command(*CELLS, "optimizer.learning_rate=0.1,0.5", f"tracking.uri={uri(tmp_path)}")
    store = opened(tmp_path)
    data = prepare_run(config(*CELLS)).data
    runs = store.search("tags.kind = 'run'")
    assert len(runs) == 2
    for run in runs:
        folder = tmp_path / run.info.run_id
        folder.mkdir()
        records = pd.read_parquet(download(store, run.info.run_id, "records.parquet", folder))
        final = records[records["probe"] == "cost/test"].query("step == step.max()").set_index("replicate")["value"]
        path = download(store, run.info.run_id, "parameters.npz", folder)
        for replicate, rows in enumerate(data.test):
            correct = (predictions(path, data.x[rows], replicate) * data.y[rows].T).sum(axis=0)
            assert -np.log(correct).mean() == pytest.approx(final[replicate], rel=1e-12)


def test_parameters_are_left_out_on_request(tmp_path: Path) -> None:
    sweep_command(*CELLS, "epochs=0", "tracking.parameters=false", f"tracking.uri={uri(tmp_path)}")
    store = opened(tmp_path)
    (run,) = store.search("tags.kind = 'run'")
    assert "parameters.npz" not in {a.path for a in store.client.list_artifacts(run.info.run_id)}
