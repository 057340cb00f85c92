"""Random invalid and hostile input: values, configs, texts, overrides, files."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

MODULE = "hostilecanary"
CANARY = """
import os
MARK = os.path.join(os.path.dirname(__file__), "mark")
def call(*arguments, **named):
    with open(MARK, "a") as file:
        file.write("called ")
class Thing:
    def __init__(self, *arguments, **named):
        call()
    def __reduce__(self):
        return call, ()
call()  # an import leaves a mark, too
"""


def plant(folder: Path) -> Path:
    """Write a module that leaves a mark when it is imported or called; return the mark's path."""
    (folder / f"{MODULE}.py").write_text(CANARY)
    return folder / "mark"


class Marked:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.path,)


def pickled(path: Path) -> bytes:
    """Return a pickle that creates this folder when it is loaded."""
    return pickle.dumps(Marked(str(path)))


TARGETS = [
    f"{MODULE}.call",
    f"{MODULE}.Thing",
    "os.system",
    "os.mkdir",
    "posix.system",
    "subprocess.Popen",
    "subprocess.run",
    "builtins.eval",
    "builtins.exec",
    "builtins.open",
    "pickle.loads",
    "shutil.rmtree",
    "pathlib.Path",
    "importlib.import_module",
    "hydra.utils.instantiate",
    "numpy.load",
    "pandas.read_pickle",
    "engine.arrays.np.save",
    "engine.probes.os.system",
    "engine",
    "engine.",
    ".engine",
    "engine..activations",
    "engine.activations.Relu.__init__",
    "engine.activations.__builtins__",
    "engine.activations.dataclass",
    "engine.activations.Activation",
    "engine.activations.Tanh",
    "engine.costs.CrossEntropy",
    "engine.gradient_check.check",
    "pipeline.reports.outputs.write_output",
    "pipeline.training.array_files.write",
    "pipeline.__main__.main",
    "pipeline.tracking.ui.prepare_server",
    "pipeline.reproducibility.exchange.stage.staging_dir",
    "pipeline.reproducibility.environment.provenance",
    "pipeline.data.files.Csv",
    "pipeline.tracking.store.Store",
    "pipeline.config.schema.Config",
    "pipeline.errors.ConfigError",
    "pipeline.nowhere.Nothing",
    "",
    ".",
    "..",
    "a" * 3000,
    "engine.activations.\0",
    "engine.activations.σ",
    "../../engine.activations.Relu",
    "/etc/passwd",
]
WORDS = [
    "",
    " ",
    "\0",
    "\n",
    "\x1b[31mred\x1b[0m",
    "[/red][bold]",
    "../../../../etc/passwd",
    "/etc/passwd",
    "C:\\con",
    "${oc.env:HOME}",
    "${hydra:runtime.cwd}",
    "${" * 200,
    "???",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "{}" * 50,
    "%s%n%x",
    "'; drop table runs; --",
    "ÿ\u202e\u0000",
    "x" * 9000,
    "x" * 20_000,
    "layer_99",
    "nan",
    "1e999",
    "null",
    "true",
    "\ud800",
]
NUMBERS = [0, -1, 1, 2, 3, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 2**64, 10**30, 10**400, True, False, None]
NUMBERS += [float("inf"), float("-inf"), float("nan")]


def value(rng: random.Random, mark: Path, depth: int = 0) -> Any:
    """Return a random value, most likely an invalid one."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return rng.choice(WORDS)
    if kind == 4:
        return rng.choice([[], {}, [[]], {"_target_": None}, {"_target_": 3}, {"_target_": []}, {"": 1}, [None]])
    if kind == 5:
        return [value(rng, mark, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {rng.choice(WORDS): value(rng, mark, depth + 1) for _ in range(rng.randrange(3))}
    return target(rng, mark)


def target(rng: random.Random, mark: Path) -> dict[str, Any]:
    """Return a ``_target_`` with arguments that would leave a mark."""
    path = str(mark)
    call: dict[str, Any] = {"_target_": rng.choice(TARGETS)}
    for _ in range(rng.randrange(3)):
        call |= rng.choice(
            [
                {"path": path},
                {"html": "x", "path": path},
                {"path": path, "arrays": {}, "about": 1},
                {"args": f"mkdir {path}", "shell": True},
                {"command": f"mkdir {path}"},
                {"_args_": [path]},
                {"_partial_": True},
                {"_partial_": "yes"},
                {"_recursive_": False},
                {"_convert_": "all"},
                {"argv": ["sweep", f"tracking.uri=sqlite:///{path}"]},
                {"node": {"_target_": "os.mkdir", "path": path}},
            ]
        )
    return call


def places(value: Any, below: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a config."""
    paths = [below] if below else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        paths += places(inner, (*below, key))
    return paths


def config(rng: random.Random, base: dict[str, Any], mark: Path) -> dict[str, Any]:
    """Return a config with one to three random changes."""
    raw_config = copy.deepcopy(base)
    for _ in range(rng.randint(1, 3)):
        *parents, last = rng.choice(places(raw_config))
        holder = raw_config
        for key in parents:
            holder = holder[key]
        kind = rng.randrange(6)
        if kind == 0 and isinstance(holder, dict):
            del holder[last]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice([*WORDS, "_target_", "_partial_", "x"])] = value(rng, mark)
        elif kind == 2:
            holder[last] = target(rng, mark)
        else:
            holder[last] = value(rng, mark)
    return raw_config


def text(rng: random.Random, raw_config: dict[str, Any]) -> str:
    """Return a config as YAML, sometimes damaged."""
    try:
        plain = yaml.safe_dump(raw_config, sort_keys=False, allow_unicode=rng.random() < 0.5)
    except ValueError:  # a number with more digits than Python prints
        return rng.choice(YAML)
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(YAML)
    if kind == 1:
        at = rng.randrange(len(plain))
        return (
            plain[:at]
            + rng.choice(["\t", ":", "&a ", "*a", "!!python/name:os.system ", "- ", "\x00", "{", "|"])
            + plain[at:]
        )
    if kind == 2:
        return plain[: rng.randrange(len(plain))]
    return plain


YAML = [
    "",
    "null",
    "- 1",
    "42",
    "!!python/object/apply:os.mkdir [hostile]",
    "activation: !!python/object/apply:os.system ['mkdir hostile']",
    f"activation: !!python/name:{MODULE}.call ''",
    f"!!python/object/new:{MODULE}.Thing []",
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefghi", "bcdefghij", strict=True)),
    "a: &a {k: 1}\n"
    + "".join(
        f"{c}: &{c} {{<<: [{','.join([f'*{b}'] * 9)}]}}\n" for b, c in zip("abcdefghi", "bcdefghij", strict=True)
    ),
    "a: &a [*a]",
    "a: &a {b: *a}",
    "[" * 3000,
    "{a: " * 3000,
    "- " * 3000,
    "seed: " + "9" * 6000,
    "seed: 0x" + "f" * 9000,
    "seed: " + ":".join(["59"] * 3000),
    "seed: 2001-01-01",
    "seed: !!binary aGVsbG8=",
    "seed: !!set {a, b}",
    "seed: !!omap [a: 1]",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "1: 2\n2.5: 3\nnull: 4",
    "seed: 1\nseed: 2",
    'seed: "\\ud800"',
    "--- 1\n--- 2",
    "%YAML 9.9\n--- {}",
    "\ufeffseed: 1",
    "x" * 1_100_000,
]
OVERRIDES = [
    "{key}={word}",
    "{key}={number}",
    "+{key}={word}",
    "++{key}={number}",
    "~{key}",
    "{key}=[{number},{word}]",
    "{key}={{a:{word}}}",
    "{key}._target_=subprocess.Popen",
    "activation._target_=os.system",
    "cost._target_=subprocess.Popen",
    "{group}={word}",
    "{group}=../../../etc/passwd",
    "{group}@{key}={word}",
    "+{group}={word}",
    "hydra.run.dir={word}",
    "hydra.searchpath=[pkg://{word}]",
    "hydra/launcher={word}",
    "tracking.uri={word}",
    "{key}=${{oc.env:{word}}}",
    "{key}=${{{key}}}",
    "{key}=choice({word},{number})",
    "{key}=range(0,{number})",
    "{word}",
    "--{word}",
    "={word}",
    "{key}==={word}",
    "{key}='{word}",
]


def overrides(rng: random.Random, keys: list[str], groups: list[str]) -> list[str]:
    """Return one to three random overrides."""

    def override() -> str:
        number, word = (
            str(rng.choice(NUMBERS[:13])),
            rng.choice([w for w in WORDS if len(w) < 9000 and "\ud800" not in w]),
        )
        return rng.choice(OVERRIDES).format(
            key=rng.choice([*keys, "nope", "a.b.c"]), group=rng.choice([*groups, "nope"]), word=word, number=number
        )

    return [override() for _ in range(rng.randint(1, 3))]


def records(rng: random.Random, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of records with invalid, missing or repeated rows."""
    table = table.copy()
    for _ in range(rng.randint(1, 3)):
        kinds = list(table["probe"].unique())
        chosen = table.index[table["probe"] == rng.choice(kinds)] if kinds and rng.random() < 0.5 else table.index[::7]
        match rng.choice([*table.columns, "fewer", "more"]):
            case "fewer":
                table = table.drop(index=chosen)
            case "more":
                table = pd.concat([table, table.loc[chosen]], ignore_index=True)
            case "value":
                table.loc[chosen, "value"] = rng.choice([math.inf, -math.inf, math.nan, 1e308, 5e-324, 0.0])
            case "probe":
                table.loc[chosen, "probe"] = rng.choice(
                    ["", "\x1b$\\frac{", "delta_rms", "cost/train", "a/b", "<script>"]
                )
            case column:
                odd: list[Any] = [0, -1, 1, 7, 2**31, 2**53, 2**62, -(2**62)]
                table.loc[chosen, column] = rng.choice([*odd, pd.NA] if column in ("layer", "bin") else odd)
    return table


NAMES = [
    "x",
    ".x",
    "run.json.",
    "RUN.JSON",
    "con.txt",
    "a\\b",
    "a\nb",
    "\x1b[2J",
    "x" * 255,
    "%2e%2e",
    "report.html ",
    "...",
]
PATHS = [
    "../x",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "a\0b",
    "",
    ".",
    "..",
    "runs/../../x",
    "x" * 5000,
    "con",
    "run.json/x",
    "./run.json",
    "run.json\0",
]


def damage(rng: random.Random, folder: Path, outside: Path, mark: Path) -> None:
    """Change a random file of an exported run's folder, or its content."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    path = rng.choice(files)
    match rng.randrange(9):
        case 0:
            data = bytearray(path.read_bytes())
            for _ in range(rng.randint(1, 20) if data else 0):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(bytes(data))
        case 1:
            path.write_bytes(path.read_bytes()[: rng.randrange(1 + path.stat().st_size)])
        case 2:
            path.unlink()
            replacements: list[Callable[[], object]] = [
                lambda: path.symlink_to(outside / "secret"),
                lambda: path.symlink_to("/dev/zero"),
                lambda: path.symlink_to(path),
                lambda: os.mkfifo(path),
                lambda: path.mkdir(),
                lambda: shutil.copytree(outside, path),
                lambda: None,
            ]
            rng.choice(replacements)()
        case 3:
            (folder / rng.choice(NAMES)).write_text("x")
        case 4:
            if not (folder / "config.yaml").is_symlink() and (folder / "config.yaml").is_file():
                (folder / "config.yaml").write_text(rng.choice(YAML), encoding="utf-8", errors="surrogatepass")
        case 5:
            _rewrite(folder / "run.json", lambda facts: _facts(rng, facts, mark))
        case 6:
            _rewrite(folder / "manifest.json", lambda manifest: _manifest(rng, manifest))
        case 7:
            path.write_bytes(
                rng.choice([b"", b"\0" * 1000, b"\x89PNG\r\n\x1a\n", b"PAR1PAR1", pickled(mark), b"{}", b"null"])
            )
        case _:
            source = rng.choice(files)
            path.write_bytes(source.read_bytes())


def _rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    if path.is_file() and not path.is_symlink():
        try:
            value = json.loads(path.read_text())
        except ValueError:
            return
        path.write_text(json.dumps(change(value), indent=1, sort_keys=True) + "\n")


def _facts(rng: random.Random, facts: Any, mark: Path) -> Any:
    if not isinstance(facts, dict):
        return facts
    key = rng.choice([*facts, "more"])
    if key in ("tags", "params") and isinstance(facts.get(key), dict) and rng.random() < 0.9:
        name = rng.choice(
            [*PATHS, *WORDS, "mlflow.note.content", "mlflow.runName", "sweep", "kind", "lease", "imported"]
        )
        return {**facts, key: {**facts[key], name: rng.choice([*WORDS, "x"])}}
    return {**facts, key: value(rng, mark)}


def _manifest(rng: random.Random, manifest: Any) -> Any:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return manifest
    entry = {"sha256": "0" * 64, "size": rng.choice([0, -1, 2**70, 1.5])}
    return rng.choice(
        [
            {**manifest, "files": {**manifest["files"], rng.choice(PATHS): entry}},
            {**manifest, "files": {}},
            {**manifest, "kind": "sweep"},
            {**manifest, "id": rng.choice(PATHS)},
            {**manifest, "seal": "0" * 64},
            {**manifest, rng.choice(["files", "format", "more"]): rng.choice([*NUMBERS[:13], *WORDS[:6], [], {}])},
        ]
    )
