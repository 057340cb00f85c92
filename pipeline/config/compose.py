"""Hydra composes; this module asks it to, through its compose API, and puts its complaints into one line.

A sweep is composed whole before its first cell runs, so a mistake in the last cell costs nothing.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from pipeline.config.hydra_errors import (
    COMPLAINTS,
    in_one_line,
)
from pipeline.errors import ConfigError
from pipeline.paths import CONF


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        swept: the keys that differ between cells, with this cell's values as text.
        config: the resolved config, plain data.
    """

    swept: dict[str, str]
    config: dict[str, Any]


def compose_run(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """The resolved config of one run.

    Raises:
        ConfigError: Hydra's or OmegaConf's complaint in one line.
    """
    with _hydra():
        return _resolved(_Composer()(_with_directory(overrides, config_dir)))


def compose_sweep(overrides: Sequence[str], config_dir: str | None = None) -> list[Cell]:
    """The cells of a sweep: the product of ``hydra.sweeper.params`` of the experiment and of ``key=a,b`` overrides.

    Raises:
        ConfigError: as :func:`compose_run`, for any cell.
    """
    with _hydra():
        given = _with_directory(overrides, config_dir)
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        with in_one_line(given):
            parsed = parser.parse_overrides(list(given))
        fixed = [text for text, o in zip(given, parsed, strict=True) if not o.is_sweep_override()]
        whole = _Composer(hydra=True)(fixed)
        params = OmegaConf.to_container(whole.hydra.sweeper.params or OmegaConf.create({}))
        with in_one_line(given):
            from_file = parser.parse_overrides([f"{k}={v}" for k, v in dict(params).items()])  # type: ignore[arg-type]
            (cells,) = BasicSweeper.split_arguments([*from_file, *parsed], max_batch_size=None)
        swept = {o.get_key_element(): None for o in [*from_file, *parsed] if o.is_sweep_override()}
        for o in [*from_file, *parsed]:  # a fixed override on the command line beats the experiment's sweep
            if not o.is_sweep_override():
                swept.pop(o.get_key_element(), None)
        composer = _Composer()
        return [Cell(_values(cell, list(swept)), _resolved(composer(cell))) for cell in cells]


def _values(cell: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    chosen = dict(text.split("=", 1) for text in cell)
    return {key: chosen[key] for key in keys}


def _with_directory(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """``--config-dir`` is one more place on Hydra's search path."""
    if config_dir is None:
        return list(overrides)
    path = Path(config_dir).expanduser().resolve()
    if not config_dir or not path.is_dir():
        raise ConfigError(f"--config-dir={config_dir}: no such directory")
    places = [f"file://{path}"]
    rest = []
    for text in overrides:
        if text.startswith("hydra.searchpath="):
            places += OmegaConf.to_container(OmegaConf.create(text.split("=", 1)[1]))  # type: ignore[arg-type]
        else:
            rest.append(text)
    return [f"hydra.searchpath=[{','.join(places)}]", *rest]


@contextmanager
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="gradvitals"), warnings.catch_warnings():
        warnings.filterwarnings("error", message="provider=hydra.searchpath")  # a place that does not exist
        yield


def _compose(overrides: Sequence[str], hydra: bool = False) -> DictConfig:
    with in_one_line(overrides):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)


class _Composer:
    """Composes configs that differ in values, and not in what was chosen from a group, once, for that takes its time.

    The values are then set as Hydra sets them. What was composed is kept for as long as the process lives: the trials
    of a search differ in values, too.
    """

    def __init__(self, hydra: bool = False) -> None:
        self._parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        self._hydra = hydra

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        try:
            parsed = self._parser.parse_overrides(list(overrides))
            whole = [o for o in parsed if not _is_value(o)]
            if any(o.is_sweep_override() for o in parsed) or not all(map(_is_choice, whole)):
                return _compose(overrides, self._hydra)  # their order may matter
            config = copy.deepcopy(_chosen(tuple(str(o.input_line) for o in whole), self._hydra))
            for o in filter(_is_value, parsed):
                OmegaConf.update(config, o.key_or_group, o.value(), merge=True)
        except (ConfigError, *COMPLAINTS):
            return _compose(overrides, self._hydra)  # Hydra says better what is wrong
        return config


@lru_cache(maxsize=64)
def _chosen(choices: tuple[str, ...], hydra: bool) -> DictConfig:
    """What Hydra composes of choices from groups in this project's own folder; to be copied before it is changed."""
    return _compose(choices, hydra)


def _is_choice(override: Override) -> bool:
    """Whether it chooses one option from a group, and no other place to look for them."""
    return override.type == OverrideType.CHANGE and not isinstance(override.value(), dict | list)


def _is_value(override: Override) -> bool:
    """Whether it sets a value, for certain, and chooses nothing from a group."""
    key = override.key_or_group
    plain = override.type == OverrideType.CHANGE and override.package is None and not key.startswith("hydra.")
    return plain and ("." in key or key in _scalars())


@lru_cache(maxsize=1)
def _scalars() -> frozenset[str]:
    """The keys of the main config that are a number or a text."""
    main = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    return frozenset(str(k) for k, v in dict(main).items() if isinstance(v, int | float | str))  # type: ignore[arg-type]


def _resolved(config: DictConfig) -> dict[str, Any]:
    with in_one_line([]):
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"{missing[0]}=???: is missing; give it a value: {missing[0]}=...")
        plain: Any = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in plain.items()}
