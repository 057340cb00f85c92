"""The page of all config keys: options from conf/, and the values that the classes they name accept.

The range of a value is what its class says when it refuses another one, so no range is written here.
"""

from __future__ import annotations

import inspect
import math
import re
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml

from pipeline.config.compose import compose_run
from pipeline.config.instantiate import import_target, instantiate
from pipeline.config.schema import CheckpointConfig, Config, DivergenceConfig, Evaluation, build
from pipeline.data.csv_text import Dialect
from pipeline.data.files import Csv
from pipeline.data.prepare import DataConfig
from pipeline.errors import ConfigError
from pipeline.paths import CONF
from tools.docstrings import code, meanings, summary, table

WRONG: tuple[Any, ...] = (
    -1,
    0,
    1e-300,
    0.5,
    2.0,
    1e308,
    10**9,
    math.inf,
    math.nan,
    "nonsense",
    [],
    [-1],
)  # most keys refuse some
REFUSAL = r"key\.{name}(?:\[\d+\])?=[^:]*: (?:must be |every size must be |not an option \(allowed: )(.*)"
OF_A_TYPE = re.compile(r"an integer|a number|true or false|text|a list|plain data|a mapping|names of probes")
INNER = {"divergence": DivergenceConfig, "checkpoints": CheckpointConfig, "evaluation": Evaluation}
SIGMOID = {"_target_": "engine.activations.Sigmoid"}
NO_ROW = {"_target_", "_partial_", "clipping", "pruning", "space", "hint", "name"}  # keys described by their options
GROUPS = {  # group -> its key in a composed config, and what it chooses
    "architecture": ("architecture", "The layers of the network."),
    "activation": (
        "activation",
        "σ of the hidden layers; `activation@output` chooses that of the last layer, "
        "`+activation@layer_activations.layer_02` that of one layer.",
    ),
    "cost": ("cost", "The cost C of one example."),
    "init": ("init", "The initial weights and biases."),
    "batching": ("batching", "How an epoch is split into batches."),
    "optimizer": ("optimizer", "The update of a step."),
    "learning_rate_schedule": (
        "optimizer.learning_rate_schedule",
        "A factor f(t) of the whole update: `learning_rate_schedule@optimizer.learning_rate_schedule=cosine`.",
    ),
    "clipping": ("optimizer.clipping", "A bound on the gradient: `clipping@optimizer.clipping=global_norm`."),
    "data": ("data", "The data and their split."),
    "schedule": (
        "schedule",
        "The steps at which probes measure; `schedule@evaluation.schedule` and `schedule@chain.schedule` choose those "
        "of evaluations and of the hash chain, `+schedule@probe_schedules.NAME` that of one probe.",
    ),
    "early_stopping": ("early_stopping", "The end of a training before its last step."),
    "tracking": ("tracking", "Where and how completely runs are logged."),
    "search": ("search", "A search."),
    "executor": ("executor", "Where the cells of a sweep run; without one, in processes of this machine."),
}


def config_sections() -> list[str]:
    """Return the sections of the page, the keys of the top level first."""
    top = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    chosen = {key: option for entry in top.pop("defaults") if isinstance(entry, dict) for key, option in entry.items()}
    sets = [(f"`{option}`", _members_in_words(option)) for option in options("probes")]
    experiments = [(f"`{name}`", _first_comment(name)) for name in options("experiment")]
    return [
        "## Top level\n\n" + table(("key", "default", "values", "meaning"), _top_rows(top)),
        *(_group_section(group, *GROUPS.get(group, (group, "")), chosen.get(group)) for group in _groups()),
        "## probes\n\nSets of [probes](probes.md); `probes=[essential,noise]` joins two. Default: `standard`.\n\n"
        + table(("option", "probes"), sets),
        "## experiment\n\nChanges to the defaults; most have a sweep of their own. Default: none.\n\n"
        + table(("option", "about"), experiments),
    ]


def _groups() -> list[str]:
    """Return the groups that have a section of this form: those with a text first."""
    others = {"probe", "probes", "experiment", *GROUPS}
    present = [group for group in GROUPS if (CONF / group).is_dir()]
    return [*present, *sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in others)]


def options(group: str) -> list[str]:
    """Return the options of a group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def members(option: str) -> dict[str, str]:
    """Return the probes that a set names itself: their names, and the option of each."""
    return {name: chosen for name, chosen in _entries(option).items() if chosen is not None}


def _entries(option: str) -> dict[str, str | None]:
    """Return the defaults of a set: names with the option of their probe, and other sets with None."""
    raw = yaml.safe_load((CONF / "probes" / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    found: dict[str, str | None] = {}
    for entry in raw.get("defaults", []):
        if isinstance(entry, str):
            found[entry] = None
        else:
            found |= {key.partition("@")[2]: chosen for key, chosen in entry.items() if key.startswith("/probe@")}
    return {name: chosen for name, chosen in found.items() if name != "_self_"}


def _members_in_words(option: str) -> str:
    sets = [f"those of `{name}`" for name, chosen in _entries(option).items() if chosen is None]
    return ", ".join(filter(None, [*sets, code(members(option))])) or "none"


def _first_comment(experiment: str) -> str:
    """Return the comment at the start of an experiment, after its package line."""
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    comment = re.match(r"# @package _global_\n((?:#.*\n)*)", text)
    return " ".join(line.lstrip("# ") for line in comment[1].splitlines()) if comment else ""


def _top_rows(top: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each key of conf/config.yaml and of its mappings."""
    texts = meanings(Config) | {"name": "The name of the run; null for one that says what differs from the defaults"}
    for key, value in top.items():
        if key in INNER:
            kind, texts_of_key = INNER[key], meanings(INNER[key])
            given = {"schedule": {"_target_": "pipeline.config.schedules.EachEpoch"}} if key == "evaluation" else {}
            for name, default in value.items():
                values = allowed(kind, value | given, name)
                yield f"`{key}.{name}`", f"`{shown(default)}`", values, texts_of_key.get(name, "")
        else:
            values = "text in one line, or null" if key == "name" else _allowed_at_top(key)
            yield f"`{key}`", f"`{shown(value)}`", values, texts.get(key, "")


class Row(NamedTuple):
    """A key, its values and its meaning."""

    key: str
    values: str
    meaning: str


@dataclass
class Part:
    """A part of an option that names a class: its place, the class and its keys."""

    place: str
    kind: Any
    raw: Mapping[str, Any] = field(repr=False)


def _group_section(group: str, place: str, about: str, default: str | None) -> str:
    """Return the section of a group: its options with their equations, and their keys."""
    parts = {option: _parts(read_option(group, option), place) for option in options(group)}
    defaults: dict[Row, dict[str, str]] = {}
    for option, its_parts in parts.items():
        for part in its_parts:
            for row, value in _rows(part):
                defaults.setdefault(row, {})[option] = value
    named = [(f"`{option}`", *_of_option(option, parts, defaults)) for option in parts]
    rows = [
        (f"`{row.key}`", _default(values), "" if len(values) == len(parts) else code(values), row.values, row.meaning)
        for row, values in sorted(defaults.items())
    ]
    default = "constant" if group == "learning_rate_schedule" else default
    texts = [f"## {group}", f"{about} Default: {f'`{default}`' if default else 'none'}.".strip()]
    texts.append(table(("option", "", "with"), named))
    return "\n\n".join([*texts, *([table(("key", "default", "of", "values", "meaning"), rows)] if rows else [])])


def _of_option(
    option: str, parts: Mapping[str, Sequence[Part]], defaults: Mapping[Row, Mapping[str, str]]
) -> tuple[str, str]:
    """Return what an option is, and what distinguishes it from other options of the same class."""
    main = next(part for part in parts[option] if part.kind is not DataConfig)
    relatives = [o for o, its in parts.items() if o != option and any(part.kind is main.kind for part in its)]
    if "name" in main.raw:
        return summary(main.kind), f"`{main.raw['name']}`"
    own = [
        f"{row.key.rpartition('.')[2]}={values[option]}"
        for row, values in sorted(defaults.items())
        if option in values and any(values.get(o) != values[option] for o in relatives) and values[option] != "???"
    ]
    return summary(main.kind), code(own)


def _default(values: Mapping[str, str]) -> str:
    """Return the default of a key: that of most options, and of the others with their names."""
    (common, count), *others = Counter(values.values()).most_common()
    if not others:
        return f"`{common}`"
    if count == 1 or len(values) == 2:
        return ", ".join(f"`{value}` ({option})" for option, value in values.items())
    return f"`{common}`; " + ", ".join(f"`{v}` ({option})" for option, v in values.items() if v != common)


def read_option(group: str, option: str) -> dict[str, Any]:
    """Return an option's file, merged into the options that it starts from."""
    raw: dict[str, Any] = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
    for entry in raw.pop("defaults", []):
        if entry == "_self_":
            continue
        name, chosen = next(iter(entry.items())) if isinstance(entry, dict) else (entry, None)
        path, _, place = name.strip("/").partition("@")
        if isinstance(entry, str):  # another option of the group
            raw = {place: read_option(group, path)} | raw if place else read_option(group, path) | raw
        elif chosen is not None:
            *above, last = place.split(".")
            target = raw
            for step in above:
                target = target[step]
            target[last] = read_option(path, chosen)
    return raw


def _parts(raw: Any, place: str) -> list[Part]:
    """Return each part of an option that names a class or function; data have a class without a name."""
    if not isinstance(raw, Mapping):
        return []
    own = [Part(place, import_target(raw["_target_"], place, None), raw)] if "_target_" in raw else []
    if place == "data":
        own = [Part(place, DataConfig, raw)]
    return own + [part for name, value in raw.items() for part in _parts(value, f"{place}.{name}")]


def _rows(part: Part) -> Iterator[tuple[Row, str]]:
    """Yield each plain key of a part with its default."""
    texts = meanings(part.kind, *[Dialect] * (part.kind is Csv)) if inspect.isclass(part.kind) else {}
    for name, default in part.raw.items():
        if name not in NO_ROW and not isinstance(default, Mapping) and "${" not in str(default):
            values = allowed(part.kind, part.raw, name)
            yield Row(f"{part.place}.{name}", values, texts.get(name, "")), shown(default)


def shown(value: object) -> str:
    """Return a value as one writes it in a command."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return "null" if value is None else str(value)


def _allowed_at_top(key: str) -> str:
    """Return the values of a key of the config itself."""
    raw, said = compose_run([]), []
    for wrong in (-1, 10**9):
        try:
            build(raw | {key: wrong})
        except ConfigError as refused:
            said.append(str(refused).partition("must be ")[2])
    return _joined(get_type_hints(Config)[key], said)


def allowed(kind: Any, raw: Mapping[str, Any], name: str) -> str:
    """Return the values of an argument of a class or function: its type, and what is said when others are refused.

    Args:
        kind: The class or function.
        raw: Valid values of all its arguments, as in the config.
        name: The argument.
    """
    hints = get_type_hints(kind) | (get_type_hints(kind.__init__) if inspect.isclass(kind) else {})
    given = {key: SIGMOID if "${" in str(value) else "x" if value == "???" else value for key, value in raw.items()}
    said = []
    for wrong in WRONG:
        try:
            instantiate(kind, given | {name: wrong}, "key")
        except ConfigError as refused:
            if message := re.match(REFUSAL.format(name=name), str(refused)):
                said.append(message[1].removesuffix(")") if "(allowed: " in message[0] else message[1])
        except Exception:  # noqa: BLE001, S112 (a value of another type may fail in any way)
            continue
    return _joined(hints.get(name, Any), said)


def _joined(hint: Any, said: Sequence[str]) -> str:
    """Return the words for a type and the ranges that messages name."""
    ranges = [] if get_origin(_bare(hint)) is Literal else [re.sub(r",? or null.*", "", text) for text in said]
    known = [text for text in dict.fromkeys(ranges) if text != "null" and not OF_A_TYPE.match(text)]
    return ", ".join(filter(None, [words(hint), *known]))


def _bare(hint: Any) -> Any:
    """Return an annotation without None, and without arrays, which are for Python only."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    plain = [h for h in get_args(hint) if h in (int, float, bool, str) or get_origin(h) in (Literal, tuple, list)]
    return plain[0] if plain else Any


def words(hint: Any) -> str:
    """Return an annotation in words."""
    bare = _bare(hint)
    inner = get_args(bare)
    names = {int: "integer", float: "number", bool: "`true`, `false`", str: "text"}
    text = names.get(bare, "")
    if get_origin(bare) is Literal:
        text = code(inner)
    elif get_origin(bare) in (tuple, Sequence) and inner[0] in (int, str):
        text = "list of integers" if inner[0] is int else "list of texts"
    return f"{text}, `null`" if type(None) in get_args(hint) else text
