"""The parameters of a stack of networks in one file: NumPy's npz, one array for each parameter.

    layer_01/W  [R, n, m]      layer_01/b  [R, n, 1]                        layers 1 ... L, R replicates
    block_03/gamma  block_03/beta  block_03/mean  block_03/variance         [R, n, 1], of a normalisation

A block's number is its place in :attr:`engine.network.Network.modules`, from 0. ``numpy.load`` reads the file.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from engine.arrays import Array
from engine.network import Dense, Network
from pipeline.errors import ConfigError

PARAMETERS_FILE = "parameters.npz"
HEADER = 1024  # bytes; NumPy writes 128 before an array of few axes
UNREADABLE = (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError)


def parameters_of(network: Network) -> dict[str, Array]:
    """Return each parameter and each array of state by its name in the file, as views into the network."""
    named: dict[str, Array] = {}
    for number, block in enumerate(network.modules):
        prefix = f"layer_{block.number:02d}" if isinstance(block, Dense) else f"block_{number:02d}"
        named |= {f"{prefix}/{parameter.name}": parameter.value for parameter in block.parameters}
        named |= {f"{prefix}/{name}": array for name, array in block.state().items()}
    return named


def save(path: Path, network: Network) -> None:
    """Write the parameters and the state of a network.

    Args:
        path: The file.
        network: The network [R].
    """
    arrays: dict[str, Any] = dict(parameters_of(network))
    with path.open("wb") as file:  # numpy would add a suffix to another name
        np.savez(file, **arrays)


def load(path: Path, network: Network) -> None:
    """Replace the parameters and the state of a network by those of a file. The file is untrusted.

    Args:
        path: A file that :func:`save` wrote for a network of the same blocks, replicates and dtype.
        network: The network [R]. It is unchanged if the file does not fit.

    Raises:
        ConfigError: The file cannot be read, or has other names, shapes or types.
    """
    own = parameters_of(network)
    try:
        with zipfile.ZipFile(path) as members:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in members.infolist()}
        if sizes.keys() != own.keys() or any(sizes[name] > own[name].nbytes + HEADER for name in own):
            raise ConfigError(f"{path.name}: does not have the parameters of this network")
        with np.load(path, allow_pickle=False) as file:
            saved = {name: file[name] for name in own}
    except UNREADABLE as broken:
        raise ConfigError(f"{path.name}: cannot be read ({type(broken).__name__})") from broken
    for name, array in own.items():
        if (saved[name].shape, saved[name].dtype) != (array.shape, array.dtype):
            raise ConfigError(
                f"{path.name}: {name} is {saved[name].dtype} {saved[name].shape}; must be {array.dtype} {array.shape}"
            )
    for name, array in own.items():
        array[...] = saved[name]


def check(path: Path) -> None:
    """Check that an untrusted file holds arrays of floating-point numbers, stored whole and without compression.

    Args:
        path: A file that :func:`save` may have written, for any network.

    Raises:
        ConfigError: The file cannot be read, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as members:
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.infolist()):
                raise ConfigError(f"{path.name}: must not be compressed")
        with np.load(path, allow_pickle=False) as file:
            kinds = {file[name].dtype.kind for name in file.files}
    except UNREADABLE as broken:
        raise ConfigError(f"{path.name}: cannot be read ({type(broken).__name__})") from broken
    if kinds != {"f"}:
        raise ConfigError(f"{path.name}: must hold floating-point numbers")
