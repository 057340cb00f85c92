"""Compose the configs of runs and sweeps with Hydra's compose API.

A sweep is composed whole before its first cell runs, so a mistake in the last cell costs nothing.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep
from omegaconf import OmegaConf, open_dict

from pipeline.config.config_files import DEEPEST, check_config_file
from pipeline.config.hydra_errors import in_one_line, shortened
from pipeline.config.schema import with_one_length
from pipeline.errors import ConfigError
from pipeline.paths import CONF
from pipeline.wording import command, option

SEARCH_PATH = "hydra.searchpath"
SWEEP_PARAMS = "hydra.sweeper.params"
INSTEAD = {  # settings of Hydra that have no effect, and what to write
    SWEEP_PARAMS: f"write the swept keys themselves: {command('sweep activation=relu,tanh')}",
    "hydra.run": "runs are in the store; to choose its place write tracking.uri=sqlite:///FILE",
    "hydra.sweep": "runs are in the store; to choose its place write tracking.uri=sqlite:///FILE",
    "hydra.launcher": f"for several processes write {option('jobs', 'n')}",
    "hydra": "of Hydra's settings, only hydra.searchpath has",
}
LONGEST_OVERRIDE = 10_000  # characters; Hydra's parser takes 10 s for that many
LONGEST_KEY = 200  # characters; a group's file has a name
MOST_CELLS = 10_000  # of a sweep
MERGED_GROUPS = ("probes",)  # a list of their options is one config with the parts of each
REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        swept: The keys that differ between cells, with this cell's values as text.
        config: The resolved config, plain data.
        choices: The chosen option of each key that has options, such as ``init`` and ``optimizer.clipping``.
        overrides: The overrides that compose this cell alone.
    """

    swept: dict[str, str]
    config: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]


def compose_run(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """Return the resolved config of one run. The arguments are those of :func:`compose_cell`."""
    return compose_cell(overrides, config_dir).config


def compose_cell(overrides: Sequence[str], config_dir: str | None = None) -> Cell:
    """Return one run as a cell without swept keys.

    Args:
        overrides: Overrides in Hydra's grammar.
        config_dir: A folder of the user's own config groups.

    Raises:
        ConfigError: The config cannot be composed, explained in one line.
    """
    check_overrides(overrides)
    with _hydra():
        requested = _with_directory(_with_depth(overrides), config_dir)
        _forget_changed_folders(requested)
        return _cell({}, requested)


def compose_sweep(overrides: Sequence[str], config_dir: str | None = None) -> list[Cell]:
    """Return the cells of a sweep.

    The cells are the product of the experiment's ``hydra.sweeper.params`` and of ``key=a,b`` overrides. The last key
    varies fastest.

    Args:
        overrides: Overrides in Hydra's grammar. They replace the experiment's values for the same keys.
        config_dir: A folder of the user's own config groups.

    Raises:
        ConfigError: A cell cannot be composed, explained in one line.
    """
    check_overrides(overrides)
    with _hydra():
        requested = _with_directory(_with_depth(overrides), config_dir)
        _forget_changed_folders(requested)
        with in_one_line(requested):
            from_command = _parser().parse_overrides(requested)
        fixed = [text for text, o in zip(requested, from_command, strict=True) if not o.is_sweep_override()]
        params = _compose(fixed).sweep_params
        with in_one_line(requested):
            from_experiment = _parser().parse_overrides(_sweep_texts(params))
            last = {o.get_key_element(): o for o in [*from_experiment, *from_command]}
            values = [[(key, value) for value in _values(override)] for key, override in last.items()]
        if (count := math.prod(map(len, values))) > MOST_CELLS:
            raise ConfigError(f"the sweep has {count} cells; at most {MOST_CELLS} are run")
        swept = [key for key, override in last.items() if override.is_sweep_override()]
        cells = [dict(cell) for cell in itertools.product(*values)]
        return [_cell({key: cell[key] for key in swept}, _texts(cell)) for cell in cells]


def _cell(swept: dict[str, str], overrides: Sequence[str]) -> Cell:
    composed = _compose(overrides)
    own = tuple(text for text in overrides if not text.startswith(SEARCH_PATH))
    return Cell(swept, _resolve(composed.config), composed.choices, own)


def is_a_sweep(overrides: Sequence[str]) -> bool:
    """Return whether an override gives several values, or chooses an experiment, which may do so."""
    check_overrides(overrides)
    with _hydra(), in_one_line(overrides):
        parsed = _parser().parse_overrides(list(overrides))
        return any(o.is_sweep_override() or o.key_or_group == "experiment" for o in parsed)


def check_overrides(overrides: Sequence[str]) -> None:
    """Check for what Hydra ignores, and for what it reads for seconds or not at all.

    Raises:
        ConfigError: An override is too long or too deep, or sets something of Hydra that has no effect.
    """
    for text in overrides:
        key = re.split(r"[=@]", text.lstrip("+~"), maxsplit=1)[0].strip().replace("/", ".")
        if len(text) > LONGEST_OVERRIDE or len(key) > LONGEST_KEY:
            allowed = f"allowed: {LONGEST_OVERRIDE}, of which {LONGEST_KEY} for the key"
            raise ConfigError(f"{shortened(text)}: too long; {allowed}; a file of --config-dir holds more")
        levels = itertools.accumulate((c in "[{(") - (c in "]})") for c in text)
        if max(levels, default=0) > DEEPEST:
            raise ConfigError(f"{shortened(text)}: more than {DEEPEST} levels of brackets")
        if key.partition(".")[0] == "hydra" and key != SEARCH_PATH:
            instead = next(advice for name, advice in INSTEAD.items() if f"{key}.".startswith(f"{name}."))
            raise ConfigError(f"{shortened(text)}: has no effect; {instead}")


def _sweep_texts(params: Mapping[str, Any]) -> list[str]:
    """Return an experiment's swept values as overrides.

    Raises:
        ConfigError: The values of a key are a YAML list or mapping.
    """
    for key, values in params.items():
        if isinstance(values, list | dict):
            example = ",".join(map(str, values))
            raise ConfigError(f"{SWEEP_PARAMS}.{key}={shortened(str(values))}: must be one text; {key}: {example}")
    return _texts(params)


def _texts(cell: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in cell.items()]


def _values(override: Override) -> list[str]:
    """Return the values of an override as text that Hydra parses: several for a sweep, otherwise one."""
    if override.is_interval_sweep():
        raise ConfigError(f"{override.input_line}: an interval is no list of values; allowed: a,b, choice, range, glob")
    if override.is_sweep_override():
        many = override.value()
        if isinstance(many, RangeSweep) and _length(many) > MOST_CELLS:
            raise ConfigError(f"{override.input_line}: more than {MOST_CELLS} values")
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def _with_depth(overrides: Sequence[str]) -> list[str]:
    """Add ``architecture=deep`` to a depth without a choice of architecture or experiment."""
    keys = {text.lstrip("+").partition("=")[0] for text in overrides}
    is_implied = "architecture.depth" in keys and not keys & {"architecture", "experiment"}
    return [*(["architecture=deep"] if is_implied else []), *overrides]


def _with_directory(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Add the folder of ``--config-dir`` to Hydra's search path."""
    if config_dir is None:
        return list(overrides)
    path = _config_folder(config_dir)
    search_path = [f"file://{path}"]
    remaining = []
    for text in overrides:
        if text.startswith(f"{SEARCH_PATH}="):
            search_path += OmegaConf.to_container(OmegaConf.create(text.split("=", 1)[1]))  # type: ignore[arg-type]
        else:
            remaining.append(text)
    quoted = ["'" + folder.replace("'", "\\'") + "'" for folder in search_path]  # or Hydra reads brackets and commas
    return [f"{SEARCH_PATH}=[{','.join(quoted)}]", *remaining]


def _length(values: RangeSweep) -> float:
    return ((values.stop or 0) - (values.start or 0)) / (values.step or 1)


def _config_folder(config_dir: str) -> Path:
    """Return the folder of ``--config-dir``.

    Raises:
        ConfigError: It is no folder, cannot be read, or holds no option of a group.
    """
    shown = shortened(config_dir)
    try:
        path = Path(config_dir).expanduser().resolve()
        if not config_dir or not path.exists():
            raise ConfigError(f"--config-dir={shown}: no such directory")
        if not path.is_dir():
            raise ConfigError(f"--config-dir={shown}: is a file; give the folder that holds the folders of groups")
        list(path.iterdir())
        if not any(path.glob("*/*.yaml")) and not any(path.glob("*/*/*.yaml")):
            raise ConfigError(f"--config-dir={shown}: holds no option of a group, such as activation/mine.yaml")
    except (OSError, ValueError, RuntimeError) as failure:
        problem = failure.strerror if isinstance(failure, OSError) else str(failure)
        raise ConfigError(f"--config-dir={shown}: cannot be read ({problem})") from failure
    return path


@contextmanager
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="gradvitals"), warnings.catch_warnings():
        warnings.filterwarnings("error", message="provider=hydra.searchpath")  # a folder that does not exist
        yield


def _parser() -> OverridesParser:
    return OverridesParser.create(GlobalHydra.instance().config_loader())


@dataclass(frozen=True)
class _Composed:
    """A composed config as plain data, not yet resolved, ``hydra.sweeper.params``, and the chosen options."""

    config: dict[str, Any]
    sweep_params: dict[str, Any]
    choices: dict[str, str]


def _compose(overrides: Sequence[str]) -> _Composed:
    """Compose a config. Configs that choose the same options and differ in values only are composed by Hydra once.

    The values are set in a copy of the plain data. The compositions are kept as long as the process lives, because the
    trials of a search differ in values only, too.
    """
    overrides = with_one_length(overrides)
    with in_one_line(overrides):
        parsed = [_parse(text) for text in overrides]
        values = [o for o in parsed if _is_value(o)]
        choices = [o for o in parsed if not _is_value(o)]
        if all(map(_is_choice, choices)) and not any(o.is_sweep_override() for o in parsed):
            composed = copy.deepcopy(_compose_choices(tuple(str(o.input_line) for o in choices)))
            if all(_replace(composed.config, o.key_or_group, o.value()) for o in values):
                return composed
        return _compose_by_hydra(overrides)


def _check_choices(overrides: Sequence[Override]) -> None:
    """Check the options of groups and their files.

    Raises:
        ConfigError: Several options of a group are given, of which Hydra would use the last; a file cannot be used.
    """
    folders = [CONF]
    for chosen in overrides:
        value, group = chosen.value(), chosen.key_or_group
        if group == SEARCH_PATH and isinstance(value, list):
            folders += [Path(str(place).removeprefix("file://")) for place in value]
        elif isinstance(value, list) and group not in MERGED_GROUPS and _options(group):
            key, names = chosen.get_key_element(), ",".join(map(str, value))
            raise ConfigError(
                f"{chosen.input_line}: must name one option; several make a sweep: {command(f'sweep {key}={names}')}"
            )
    for chosen in overrides:
        value, group = chosen.value(), chosen.key_or_group
        files = [folder / group / f"{str(value).removesuffix('.yaml')}.yaml" for folder in folders]
        for path in files if isinstance(value, str) else ():
            if path.is_file():
                check_config_file(path, group)


def _options(group: str) -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options(group)


def _replace(plain: dict[str, Any], key: str, value: Any) -> bool:
    """Replace a scalar or a list by another. Return whether that is certainly all that Hydra would do."""
    *sections, name = key.split(".")
    for section in sections:
        plain = plain[section] if isinstance(plain.get(section), dict) else {}
    if name not in plain or isinstance(value, dict) or isinstance(plain[name], dict):
        return False
    if None not in (plain[name], value) and isinstance(plain[name], list) != isinstance(value, list):
        return False
    plain[name] = copy.deepcopy(value)
    return True


@lru_cache(maxsize=1024)
def _parse(text: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([text])
    return override


@lru_cache(maxsize=64)
def _compose_choices(choices: tuple[str, ...]) -> _Composed:
    """Compose the options of groups. The caller must copy the result before changing it."""
    return _compose_by_hydra(choices)


def _compose_by_hydra(overrides: Sequence[str]) -> _Composed:
    _check_choices([_parse(text) for text in overrides])
    config = compose("config", overrides=list(overrides), return_hydra_config=True)
    params: Any = OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create({}))
    choices = {
        str(group).rpartition("@")[2]: str(option)
        for group, option in config.hydra.runtime.choices.items()
        if option is not None and not str(group).startswith("hydra/")
    }
    with open_dict(config):
        del config["hydra"]
    plain: Any = OmegaConf.to_container(config)
    return _Composed(plain, params, choices)


def _forget_changed_folders(overrides: Sequence[str]) -> None:
    """Drop compositions for a command with folders of the user's own, whose files may have changed."""
    if any(text.startswith(SEARCH_PATH) for text in overrides):
        _compose_choices.cache_clear()


def _is_choice(override: Override) -> bool:
    """Whether an override chooses one option from a group, or the folders to search for it."""
    is_plain = not isinstance(override.value(), dict | list) or override.key_or_group == SEARCH_PATH
    return override.type == OverrideType.CHANGE and is_plain


def _is_value(override: Override) -> bool:
    """Whether an override certainly sets a value and chooses nothing from a group."""
    key = override.key_or_group
    plain = override.type == OverrideType.CHANGE and override.package is None and not key.startswith("hydra.")
    return plain and ("." in key or key in _scalars())


@lru_cache(maxsize=1)
def _scalars() -> frozenset[str]:
    """Return the keys of the main config that are a number, a text or null."""
    main: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    return frozenset(str(key) for key, value in main.items() if isinstance(value, int | float | str | None))


def _resolve(config: dict[str, Any]) -> dict[str, Any]:
    plain: Any = _with_references(config, config)
    text = str(plain)
    if "${" not in text and "???" not in text:
        return plain
    with in_one_line([]):
        unresolved = OmegaConf.create(config)
        missing = sorted(OmegaConf.missing_keys(unresolved))
        if missing:
            raise ConfigError(f"{missing[0]}=???: is missing; give it a value: {missing[0]}=...")
        plain = OmegaConf.to_container(unresolved, resolve=True)
    return {str(key): value for key, value in plain.items()}


def _with_references(value: Any, config: dict[str, Any]) -> Any:
    """Replace each ``${a.b}`` by the value of that key. OmegaConf resolves all else, in 20 ms a config."""
    if isinstance(value, dict):
        return {key: _with_references(inner, config) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_references(inner, config) for inner in value]
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference is None:
        return value
    target: Any = config
    for key in reference[1].split("."):
        if not isinstance(target, dict) or key not in target:
            return value
        target = target[key]
    return copy.deepcopy(target)
