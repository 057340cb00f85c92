"""Every file below conf/ composes, matches its target's signature, builds and runs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.configs import REGRESSION, require, table
from support.idx_files import write_idx

from pipeline.config.compose import compose_run, compose_sweep
from pipeline.config.schema import OUTER_KEYS, CheckpointConfig, Config, Evaluation, Init, build
from pipeline.data.prepare import DataConfig
from pipeline.errors import ConfigError
from pipeline.paths import CONF
from pipeline.sweeps.plan import tracking_of
from pipeline.tracking.uri import TrackingConfig
from pipeline.training.loop import run

pytestmark = pytest.mark.xdist_group("configs")

FASHION = Path("/usr/share/datasets/fashion-mnist")
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
OPTIONS = [(path.parent.as_posix(), path.stem) for path in FILES if path.parent != Path()]
LARGE = {  # with many or large cells; each has a small sibling
    "activation_scale", "activation_scale_extremes", "activation_scale_relu", "finite_width", "glorot_2010",
    "glorot_2010_jacobian", "he_2015", "isometry_linear_orthogonal", "isometry_relu_gaussian",
    "isometry_relu_orthogonal", "isometry_tanh_orthogonal", "isometry_training_gaussian", "mean_field",
    "mean_field_training", "tanh_phases", "tanh_phases_grid",
}  # fmt: skip
EXPERIMENTS = [
    pytest.param(name, marks=pytest.mark.thorough) if name in LARGE else name
    for group, name in OPTIONS
    if group == "experiment"
]

SMALL = ("architecture.hidden=[4]", "data=iris", "epochs=1")
CHAIN = ("data=point", "batching=full_batch", *REGRESSION)
NEEDS = {  # what an option needs in addition for a sensible run
    "architecture/chain": CHAIN,
    "architecture/deep": ("architecture.depth=2", "architecture.width=3"),
    "architecture/mlp": (),
    "cost/cross_entropy": ("activation@output=sigmoid",),
    "cost/half_squared_error": ("activation@output=identity",),
    "cost/squared_error": ("activation@output=identity",),
    "data/csv": ("data.source.path={files}/table.csv", "data.source.target=kind"),
    "data/diabetes": REGRESSION,
    "data/fashion_mnist": ("data.subset=100",),
    "data/gaussian_noise": ("data.source.examples=100",),
    "data/mnist": ("data.source.folder={files}", "batching.size=4"),
    "data/parquet": ("data.source.path={files}/table.parquet", "data.source.target=kind"),
    "data/point": CHAIN,
    "data/teacher": (*REGRESSION, "data.source.examples=100"),
    "early_stopping/validation": ("data.validation_fraction=0.2",),
    "init/given": (
        "architecture.hidden=[1]",
        "init.weights.values=[[[0.1,0.2,0.3,0.4]],[[1],[2],[3]]]",
        "init.biases.values=[[[0.5]],[[1],[2],[3]]]",
    ),
    "tracking/server": ("tracking.uri=http://127.0.0.1:1",),
}
SELECT = {  # group or option -> its override key, and its key in the config (None: the part after @)
    "clipping": ("clipping@optimizer.clipping", "optimizer.clipping"),
    "learning_rate_schedule": ("learning_rate_schedule@optimizer.learning_rate_schedule", None),
    "probe": ("+probe@probes.extra", "probes.extra"),
    "activation/softmax": ("activation@output", "output"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small table and a small set of images."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((50, 3)), columns=["a", "b", "c"]).assign(kind=["x", "y"] * 25)
    frame.to_csv(folder / "table.csv", index=False)
    frame.to_parquet(folder / "table.parquet")
    write_idx(folder, rng, train=20, test=10)
    return folder


def overrides_of(group: str, name: str, files: Path) -> tuple[list[str], str]:
    """Return overrides that choose the option with fitting defaults, and the option's key in the config."""
    key, place = SELECT.get(f"{group}/{name}", SELECT.get(group, (group, None)))
    needs = [text.format(files=files) for text in NEEDS.get(f"{group}/{name}", ())]
    small = [o for o in SMALL if o.partition("=")[0] not in {n.partition("=")[0] for n in needs}]
    if group == "architecture" or f"{group}/{name}" == "data/point":
        small = [o for o in small if not o.startswith("architecture")]
    if group == "data":
        small = [o for o in small if not o.startswith("data")]
        if name == "fashion_mnist":
            require(FASHION.is_dir(), f"no {FASHION}: apt install dataset-fashion-mnist")
    return [*small, f"{key}={name}", *needs], place or key.lstrip("+").rpartition("@")[2]


def at(raw_config: Any, place: str) -> Any:
    for part in place.split("."):
        raw_config = raw_config[part]
    return raw_config


def targets(raw_config: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping with a ``_target_`` in composed config data, with its key."""
    if isinstance(raw_config, dict):
        if "_target_" in raw_config:
            yield key, raw_config
        for name, value in raw_config.items():
            yield from targets(value, f"{key}.{name}")


def check_signature(target: Any, raw_config: dict[str, Any], key: str) -> None:
    parameters = dict(inspect.signature(target).parameters)
    if raw_config.get("_partial_"):
        parameters.pop(next(iter(parameters)))  # the layer or step, which the caller passes
    assert set(raw_config) - {"_target_", "_partial_"} == set(parameters), key
    defaults = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
    # Logged configs of older runs lack three keys; for a new config their values are those of the YAML file.
    expected = {k: raw_config[k] for k in ("metrics", "figures", "parameters")} if target is TrackingConfig else {}
    assert defaults == expected, f"{key}: defaults live in YAML only"


def located(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_options_are_many_and_exceptions_name_existing_ones() -> None:
    assert len(OPTIONS) > 60
    assert set(NEEDS) | {k for k in SELECT if "/" in k} <= {f"{group}/{name}" for group, name in OPTIONS}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_are_short(path: Path) -> None:
    lines = (CONF / path).read_text(encoding="utf-8").splitlines()
    assert lines
    if path.parent != Path() and path.parent.name != "experiment":
        assert len(lines) <= 8
    assert max(map(len, lines)) <= 120


TOGETHER = ("probe", "activation")  # groups whose options one config can have together


def option(group: str, name: str) -> Any:
    """Return a case. Fashion-MNIST takes seconds to read, and MNIST has its format."""
    marks = [pytest.mark.thorough] if name == "fashion_mnist" or group in TOGETHER else []
    return pytest.param(group, name, id=f"{group}-{name}", marks=marks)


@pytest.mark.parametrize(("group", "name"), [option(*o) for o in OPTIONS if o[0] != "experiment"])
def test_each_option_matches_its_signature_and_runs(group: str, name: str, files: Path) -> None:
    overrides, place = overrides_of(group, name, files)
    raw_config = compose_run(overrides)
    chosen = at(raw_config, place)
    parts = list(targets(chosen, place))
    assert parts or name == "none"
    for key, mapping in parts:
        check_signature(located(mapping["_target_"]), mapping, key)
    if group in ("init", "data"):
        assert set(chosen) == {f.name for f in dataclasses.fields(Init if group == "init" else DataConfig)}
    own = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    if "_target_: " in own:  # the chosen option is there, not a default
        assert own.partition("_target_: ")[2].split()[0].strip(",}") in {m["_target_"] for _, m in parts}
    assert tracking_of(raw_config).experiment_name == "gradvitals"
    records = table(list(run(build(raw_config))))
    costs = [float(values[0, 0]) for (_, probe), (_, values) in records.items() if probe == "cost/train"]
    assert len(costs) == 2
    assert all(math.isfinite(c) for c in costs)
    if name != "none":
        assert any(layers for layers, _ in records.values())


def check_option(raw_config: Any, group: str, name: str, place: str) -> None:
    parts = list(targets(at(raw_config, place), place))
    for key, mapping in parts:
        check_signature(located(mapping["_target_"]), mapping, key)
    own = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    assert own.partition("_target_: ")[2].split()[0].strip(",}") in {m["_target_"] for _, m in parts}


def test_all_probes_and_activations_match_their_signatures_and_run_together() -> None:
    """The cheap form of the case for each of them in the thorough tier."""
    probes = [name for group, name in OPTIONS if group == "probe"]
    sigmas = [name for group, name in OPTIONS if group == "activation" and name != "softmax"]
    layers = {f"layer_{number:02d}": name for number, name in enumerate(sigmas, start=1)}
    raw_config = compose_run(
        [
            "data=iris", "epochs=1", f"architecture.hidden={[4] * len(sigmas)}", "probes=none",
            *(f"+probe@probes.{name}={name}" for name in probes),
            *(f"+activation@layer_activations.{layer}={name}" for layer, name in layers.items()),
        ]
    )  # fmt: skip
    for name in probes:
        check_option(raw_config, "probe", name, f"probes.{name}")
    for layer, name in layers.items():
        check_option(raw_config, "activation", name, f"layer_activations.{layer}")
    records = table(list(run(build(raw_config))))
    measured = {probe.partition("/")[0] for _, probe in records}
    for name in probes:
        assert any(probe == name or probe.startswith(f"{name}_") for probe in measured), name


def test_main_config_has_the_keys_of_a_run() -> None:
    raw_config = compose_run([])
    assert set(OUTER_KEYS) <= {*raw_config, "chain", "search", "executor"}  # the last two are chosen, or none
    optional = {"early_stopping"}  # a group of which none is chosen
    assert set(raw_config) - set(OUTER_KEYS) == {f.name for f in dataclasses.fields(Config)} - optional
    assert set(raw_config["checkpoints"]) == {f.name for f in dataclasses.fields(CheckpointConfig)}
    assert set(raw_config["evaluation"]) == {f.name for f in dataclasses.fields(Evaluation)}
    for key, mapping in targets(raw_config, "config"):
        check_signature(located(mapping["_target_"]), mapping, key)


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.thorough
def test_every_cell_of_every_experiment_builds_and_measures(name: str) -> None:
    cells = compose_sweep([f"experiment={name}", "epochs=0", "replicates=1"])
    assert cells
    assert len({str(cell.config) for cell in cells}) == len(cells), "two cells are equal"
    for cell in cells:
        assert cell.config["name"] == name
        assert list(islice(run(build(cell.config)), 1))


@pytest.mark.parametrize(
    ("swept", "last"),
    [
        (["experiment=explode", "optimizer.learning_rate=1,2", "seed=3"], None),
        (["activation=tanh,relu", "optimizer.learning_rate=0.3,0.4", "seed=3"], None),
        (["+architecture.more=1,2", "name='x y'"], ["+architecture.more=2", "name='x y'"]),
        (["architecture.hidden=[5],[6]", "architecture={hidden:[4]}"], None),
        (["architecture={hidden:[4]}", "architecture.hidden=[5],[6]"], None),
        (["dtype=float32,float64", "activation=elu", "activation.alpha=0.5,2"], None),
    ],
)
@pytest.mark.thorough
def test_cells_equal_hydra_compositions(swept: list[str], last: list[str] | None) -> None:
    """Cells that differ in values only are composed once."""
    cells = compose_sweep(swept)
    texts = last or [f"{key}={cells[-1].swept.get(key, value)}" for key, _, value in (t.partition("=") for t in swept)]
    assert len(cells) > 1
    assert cells[-1].config == compose_run(texts) == by_hydra(texts)


def by_hydra(overrides: list[str]) -> Any:
    """Compose a config as in Hydra's documentation, without any cache."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", overrides=overrides), resolve=True)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=smoke", "seed=3", "architecture.depth=3", "name=x"],
        ["optimizer.momentum=0.5", "experiment=smoke", "optimizer=nesterov", "probes=full", "seed=4", "seed=5"],
        ["activation=elu", "activation.alpha=0.5", "activation@output=identity", "cost=half_squared_error"],
        ["+probe@probes.extra=gradient_norm", "~probes.gradient_norm", "epochs=2"],
        ["init=given", "init.weights.values=[[[1,2]]]", "init.biases.values=[[[0.5]]]", "data={source:null}"],
    ],
)
@pytest.mark.thorough
def test_run_equals_hydra_composition_after_other_compositions(overrides: list[str]) -> None:
    """Choices from groups are composed once per process; a value must not stay for the next config."""
    before, expected = compose_run([]), by_hydra(overrides)
    for _ in range(2):
        assert compose_run(overrides) == expected
    assert compose_run([]) == before


def test_wrong_value_has_the_same_message_in_a_sweep_and_in_a_run() -> None:
    for wrong in ("optimizer.learning_rat=1", "activation.alpha=1"):
        with pytest.raises(ConfigError) as alone:
            compose_run([wrong])
        with pytest.raises(ConfigError) as swept:
            compose_sweep(["seed=1,2", wrong])
        assert str(swept.value) == str(alone.value)


def test_depth_experiment_has_the_documented_cells() -> None:
    cells = compose_sweep(["experiment=depth"])
    assert [(c.swept["activation"], c.swept["architecture.depth"]) for c in cells] == [
        (sigma, depth) for sigma in ("sigmoid", "tanh", "relu") for depth in ("2", "5", "10", "20")
    ]
    assert {(c.config["replicates"], c.config["data"]["source"]["name"]) for c in cells} == {(5, "digits")}


@pytest.mark.parametrize("name", ["global_norm", "per_layer"])
def test_chosen_clipping_is_built(name: str) -> None:
    """A clipping group in the wrong place would compose to null silently."""
    built = build(compose_run([f"clipping@optimizer.clipping={name}", "optimizer.clipping.max_norm=0.5"]))
    assert built.optimizer.clipping is not None
    assert built.optimizer.clipping.max_norm == 0.5
