"""The file of a network's parameters: what training ends with, whole, and read by a network of the same shape only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.configs import config

from engine.activations import Relu
from engine.network import Dense, Network
from engine.normalisation import BatchNorm
from pipeline.errors import ConfigError
from pipeline.training.loop import Callbacks, StackCell, train, train_stack
from pipeline.training.parameter_file import load, parameters_of, save
from pipeline.training.prepare import blocks_of, prepare_run

TINY = ("data=iris", "architecture.hidden=[5,4]", "epochs=1")


def batch_norm_network(width: int = 4) -> Network:
    blocks = [Dense(3, width, Relu()), BatchNorm(width, 1e-5, 0.1, True), Dense(width, 2, Relu())]
    return Network(blocks, (2,))


def test_saved_parameters_are_loaded_byte_for_byte(tmp_path: Path) -> None:
    network, other = batch_norm_network(), batch_norm_network()
    rng = np.random.default_rng(0)
    for array in parameters_of(network).values():
        array[...] = rng.normal(size=array.shape)
    save(tmp_path / "p.npz", network)
    load(tmp_path / "p.npz", other)
    assert other.theta.tobytes() == network.theta.tobytes()
    assert {k: v.tobytes() for k, v in other.state().items()} == {k: v.tobytes() for k, v in network.state().items()}


def test_names_and_shapes_are_the_documented_ones(tmp_path: Path) -> None:
    save(tmp_path / "p.npz", batch_norm_network())
    with np.load(tmp_path / "p.npz") as file:
        shapes = {name: file[name].shape for name in file.files}
    normalisation = dict.fromkeys((f"block_01/{name}" for name in ("gamma", "beta", "mean", "variance")), (2, 4, 1))
    first = {"layer_01/W": (2, 4, 3), "layer_01/b": (2, 4, 1)}
    assert shapes == first | normalisation | {"layer_02/W": (2, 2, 4), "layer_02/b": (2, 2, 1)}


def test_file_of_another_network_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path / "p.npz", batch_norm_network(width=5))
    network = batch_norm_network()
    with pytest.raises(ConfigError, match=r"p\.npz: "):
        load(tmp_path / "p.npz", network)
    assert not network.theta[:, : network.n_weights].any()


def test_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    save(path, batch_norm_network())
    whole = path.read_bytes()
    for content in (b"", b"PK", whole[:-20], whole[: len(whole) // 2], b"x" + whole[1:]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"^p\.npz: [^\n]*$"):
            load(path, batch_norm_network())


def test_objects_in_a_file_are_not_unpickled(tmp_path: Path) -> None:
    network = batch_norm_network()
    objects = {name: np.array([None] * 3, dtype=object) for name in parameters_of(network)}
    np.savez(tmp_path / "p.npz", **objects)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"p\.npz: cannot be read"):
        load(tmp_path / "p.npz", network)


def test_on_end_receives_the_parameters_after_the_last_update() -> None:
    """Oracle: from these parameters, the network has the final training cost that was recorded."""
    run = prepare_run(config(*TINY, "replicates=2"))
    ended: list[Network] = []

    def keep(network: Network) -> None:
        copy = Network(blocks_of(run), network.ensemble, network.dtype)
        copy.theta[...] = network.theta
        ended.append(copy)

    records = list(train(run, Callbacks(on_end=keep)))
    final = [r for r in records if r.probe == "cost/train"][-1]
    (network,), data = ended, run.data
    network.forward(data.x[data.train].mT)
    cost = network.cost(data.y[data.train].mT, run.config.cost).mean(axis=-1)
    np.testing.assert_allclose(cost, final.values[0], rtol=1e-12)


def test_on_end_is_called_once_for_each_cell_also_when_one_stops_early() -> None:
    ended: list[str] = []
    steps: list[int] = []
    early = Callbacks(steps.append, is_stopped=lambda: len(steps) == 3, on_end=lambda network: ended.append("early"))
    late = Callbacks(on_end=lambda network: ended.append("late"))
    cells = [prepare_run(config(*TINY, f"seed={seed}")) for seed in (0, 1)]
    for _ in train_stack([StackCell(cells[0], early), StackCell(cells[1], late)]):
        pass
    assert ended == ["early", "late"]
