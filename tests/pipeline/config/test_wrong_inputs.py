"""Wrong inputs: one line on stderr that names the key and the allowed values, exit code 2, no files."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.configs import REGRESSION
from support.idx_files import write_idx

from pipeline.cli import main

pytestmark = pytest.mark.xdist_group("wrong_inputs")

PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Wrong:
    """A command line, and the parts of its one-line message."""

    argv: tuple[str, ...]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.argv) or "nothing"


def wrong_run(*argv: str, says: tuple[str, ...] | str) -> Wrong:
    return Wrong(("run", *argv), (says,) if isinstance(says, str) else says)


def wrong_sweep(*argv: str, says: tuple[str, ...] | str) -> Wrong:
    return Wrong(("sweep", *argv), (says,) if isinstance(says, str) else says)


def value(override: str, allowed: str, *others: str, shown: str | None = None) -> Wrong:
    """Return a run with one value out of range or of another type."""
    return wrong_run(*others, override, says=(f"error: {shown or override}: ", allowed))


OUTPUT, CLIP = "activation@output", "clipping@optimizer.clipping"
RATE, RATE_KEY = "learning_rate_schedule@optimizer.learning_rate_schedule", "optimizer.learning_rate_schedule"
SIGMA_TARGET = "activation._target_"
RELU = "{_target_: engine.activations.Relu}"
TABLE = ("data=csv", "data.source.path={files}/table.csv")

UNKNOWN = [
    wrong_run("activation=sigmiod", says=("activation=sigmiod: no such option; did you mean sigmoid?", "gelu", "tanh")),
    wrong_run("data=digit", says=("data=digit: no such option; did you mean digits?", "fashion_mnist")),
    wrong_run("experiment=dept", says=("experiment=dept: no such option; did you mean depth?", "smoke")),
    wrong_run("optimizer=adamw", says=("optimizer=adamw: no such option", "adam, momentum, nesterov, sgd")),
    wrong_run(f"{OUTPUT}=softmx", says="no such option; did you mean softmax?"),
    wrong_run(f"{CLIP}=globalnorm", says="no such option; did you mean global_norm? (allowed: global_norm, per_layer)"),
    wrong_run("activation=", says=("activation=: no such option", "allowed: elu")),
    wrong_run("seeed=1", says="seeed: unknown key 'seeed'; did you mean seed?"),
    wrong_run(
        "optimizer.learning_rat=1", says="optimizer.learning_rat: unknown key 'learning_rat'; did you mean learning"
    ),
    wrong_run("optimzer.momentum=0.5", says="unknown key 'optimzer'; did you mean optimizer?"),
    wrong_run("data.source.nam=iris", says="data.source.nam: unknown key 'nam'; did you mean name?"),
    wrong_run("activation@outputt=relu", says="unknown key 'outputt'; did you mean output?"),
    wrong_run("activation.alpha=1", says="activation.alpha: unknown key 'alpha'"),
    wrong_run("+foo=1", says=("foo: unknown key", "seed")),
    wrong_run("+optimizer.momentun=1", says="optimizer.momentun: unknown key; did you mean momentum?"),
    wrong_run("+_target_=os.system", says="_target_: unknown key"),
    wrong_run("~probes.nope", says=("probes.nope: unknown key 'nope'", "gradient_norm")),
    wrong_run(f"layer_activations.layer_01={RELU}", says="to add it, write +layer_activations.layer_01"),
    wrong_run("hydra/launcher=joblib", says="hydra/launcher=joblib: has no effect; for several processes"),
]
GONE = [
    wrong_run("~seed", says="seed: is missing"),
    wrong_run("~optimizer", says="optimizer: is missing"),
    wrong_run("~optimizer.momentum", says="optimizer.momentum: is missing"),
    wrong_run("~activation", says=("init.weights.activation: ", "activation", "not found")),
    wrong_run("activation=null", says=("activation=null: must name an option of the group", "sigmoid")),
    wrong_run("data=null", says=("data=null: must name an option of the group", "digits")),
    wrong_run("optimizer=null", says="optimizer=null: must name an option of the group"),
    wrong_run("schedule=5", says=("schedule=5: must name an option of the group", "logarithmic")),
    wrong_run("evaluation=null", says="evaluation=null: must be a mapping with schedule, train_examples"),
    wrong_run("chain=null", says="chain=null: must be a mapping with schedule"),
    wrong_run("chain.schedule=null", says="chain.schedule=null: must name an option of its group"),
    wrong_run("init.weights=null", says="init.weights=null: must name an option of its group"),
    wrong_run("output=softmax", says="output=softmax: must name an option of its group"),
    wrong_run("data=csv", says="data.source.path=???: is missing; give it a value: data.source.path="),
    wrong_run("data=csv", "data.source.path=x", says="data.source.target=???: is missing"),
    wrong_run("data=mnist", says="data.source.folder=???: is missing"),
    wrong_run("init=given", says="values=???: is missing"),
    wrong_run("tracking=server", "tracking.experiment=x", says="tracking.uri=???: is missing"),
    wrong_run("seed=${{foo}}", says=("seed: ", "foo", "not found")),
    wrong_run("seed=${{oc.env:GRADVITALS_NOPE}}", says=("seed: ", "GRADVITALS_NOPE")),
]
TYPES = [
    value("optimizer.learning_rate=abc", "must be a number"),
    value("optimizer.learning_rate=true", "must be a number"),
    value("optimizer.nesterov=1", "must be true or false"),
    value("epochs=1.5", "must be an integer"),
    value("steps=7.5", "must be an integer"),
    value("epochs='2'", "must be an integer", shown="epochs=2"),
    value("seed=true", "must be an integer"),
    value("seed=null", "must be an integer"),
    value("seed=[]", "must be an integer"),
    value("replicates=2.0", "must be an integer"),
    value("batching.size=1e3", "must be an integer", shown="batching.size=1000.0"),
    value("architecture.hidden=5", "must be a list"),
    value("architecture.hidden=[5,x]", "must be an integer", shown="architecture.hidden[1]=x"),
    value("data.standardise=yes", "must be true or false"),
    value("data.source=5", "must name an option of its group"),
    value("tracking.uri=5", "must be text"),
    value("tracking.experiment=''", "must be a name", shown="tracking.experiment"),
    value("name=[1]", "must be text or null"),
    value("probes.gradient_norm=5", "must name an option of its group"),
    value("dtype=float16", "did you mean float64? (allowed: float32, float64)"),
    value("batching.last=dorp", "did you mean drop? (allowed: drop, keep)"),
    value("data.source.name=diabets", "did you mean diabetes?"),
]
RANGES = [
    value("seed=-1", ">= 0"),
    value("replicates=0", ">= 1"),
    value("epochs=-1", ">= 0"),
    value("steps=-1", ">= 0"),
    value("epochs=null", "give one of them", shown="epochs=null, steps=null"),
    wrong_run("epochs=3", "steps=5", says="epochs=3, steps=5: give one of them; the other must be null"),
    value("evaluation.train_examples=0", ">= 1"),
    value("optimizer.learning_rate=-0.1", ">= 0 and finite"),
    value("optimizer.learning_rate=nan", ">= 0 and finite"),
    value("optimizer.learning_rate=inf", ">= 0 and finite"),
    value("optimizer.momentum=1", "in [0, 1)", shown="optimizer.momentum=1.0"),
    value("optimizer.weight_decay=-1", ">= 0 and finite", shown="optimizer.weight_decay=-1.0"),
    value("optimizer.clipping.max_norm=0", "> 0", f"{CLIP}=global_norm", shown="optimizer.clipping.max_norm=0.0"),
    value("optimizer.clipping.max_norm=nan", "> 0", f"{CLIP}=per_layer"),
    value(f"{RATE_KEY}.end=2", "in [0, 1]", f"{RATE}=cosine", shown=f"{RATE_KEY}.end=2.0"),
    value(f"{RATE_KEY}.every=0", ">= 1 step", f"{RATE}=step"),
    value(f"{RATE_KEY}.decay=1.5", "in (0, 1]", f"{RATE}=step"),
    value(f"{RATE_KEY}.steps=0", ">= 1", f"{RATE}=warm_up"),
    value("schedule.n=0", ">= 1 step", "schedule=every"),
    value("schedule.per_decade=-8", ">= 1", "schedule=logarithmic"),
    value("schedule.steps_listed=[-1]", "must be one or more steps >= 0", "schedule=at"),
    value("schedule.steps_listed=[]", "must be one or more steps >= 0", "schedule=at"),
    value("chain.schedule.n=0", ">= 1 step", "schedule@chain.schedule=every"),
    value("chain.schedule.per_decade=a", "must be an integer"),
    value("evaluation.schedule.n=-3", ">= 1 step", "schedule@evaluation.schedule=every"),
    value("batching.size=0", ">= 1"),
    value("batching.size=-4", ">= 1", "batching=with_replacement"),
    value("init.weights.std=-1", ">= 0", "init=gaussian", shown="init.weights.std=-1.0"),
    value("init.weights.std=inf", "finite", "init=gaussian_fan_in"),
    value("init.weights.cut=0", ">= 0.1", "init=truncated_normal", shown="init.weights.cut=0.0"),
    value("init.weights.gain=0", "> 0", "init=orthogonal", shown="init.weights.gain=0.0"),
    value("init.weights.value=nan", "finite", "init=constant"),
    value("init.weights.sigma_w2=0", "> 0", "init=mean_field", shown="init.weights.sigma_w2=0.0"),
    value("init.biases.sigma_b2=-1", ">= 0", "init=mean_field", shown="init.biases.sigma_b2=-1.0"),
    value("activation.alpha=0", "> 0", "activation=elu", shown="activation.alpha=0.0"),
    value("activation.alpha=2", "in [0, 1)", "activation=leaky_relu", shown="activation.alpha=2.0"),
    value("probes.saturated_fraction.threshold=1", "in (0, 1)", shown="probes.saturated_fraction.threshold=1.0"),
    value("architecture.hidden=[3,0]", "every size must be >= 1", shown="architecture.hidden=[3, 0]"),
    value("architecture.outputs=0", ">= 1"),
    value("architecture.depth=0", "1 ... 100000", "architecture=deep"),
    value("architecture.depth=1000000000", "1 ... 100000", "architecture=deep"),
    value("architecture.width=-2", ">= 1", "architecture=deep"),
    value("architecture.depth=-1", "1 ... 100000", "architecture=chain"),
    value("data.test_fraction=-0.1", "in [0, 1)"),
    value("data.test_fraction=1.5", "in [0, 1)"),
    value("data.test_fraction=0.9999", "leaves one of the sets"),
    value("data.test_fraction=null", "must be in [0, 1)"),
    value("data.validation_fraction=-0.1", "must be in [0, 1)"),
    wrong_run(
        "early_stopping=validation",
        says="data.validation_fraction=0.0: early_stopping needs a validation set; must be above 0, such as 0.2",
    ),
    value("early_stopping.patience=0", "must be >= 1 evaluation", "early_stopping=validation"),
    value("early_stopping.patience=2.5", "must be an integer", "early_stopping=validation"),
    value(
        "early_stopping.min_delta=-1",
        "must be >= 0 and finite",
        "early_stopping=validation",
        shown="early_stopping.min_delta=-1.0",
    ),
    value("data.validation_fraction=1", "must be in [0, 1)", shown="data.validation_fraction=1.0"),
    value("data.validation_fraction=0.9999", "leaves one of the sets of 1438 rows empty"),
    value("data.validation_fraction=null", "must be a number"),
    wrong_run("patience=3", says="early_stopping.patience with early_stopping=validation"),
    wrong_run("early_stopping.patience=3", says="early_stopping.patience with early_stopping=validation"),
    wrong_run("val_split=0.1", says="did you mean data.validation_fraction?"),
    value("data.subset=0", ">= 1"),
    value("data.source.noise=-1", ">= 0", "data=two_spirals", shown="data.source.noise=-1.0"),
    value("data.source.turns=inf", "finite", "data=two_spirals"),
    value("data.source.examples=3", ">= 4", "data=two_spirals"),
    value("data.source.inputs=0", ">= 1", "data=gaussian_noise"),
    value("data.source.classes=1", ">= 2", "data=gaussian_noise"),
    value("data.source.variance=nan", ">= 0", "data=gaussian_noise"),
    value("data.source.hidden=[-1]", "every size must be >= 1", "data=teacher"),
    value("data.source.weight_std=-1", ">= 0", "data=teacher", shown="data.source.weight_std=-1.0"),
]
CONTRADICTIONS = [
    wrong_run("cost=cross_entropy", says=("cost=CrossEntropy: contradicts output=Softmax", "output=sigmoid")),
    wrong_run("cost=cross_entropy", f"{OUTPUT}=tanh", says=("output=Tanh", "-1 to 1", "[0, 1]")),
    wrong_run("cost=cross_entropy", f"{OUTPUT}=identity", says="contradicts output=Identity"),
    wrong_run(f"{OUTPUT}=sigmoid", says=("cost=LogLikelihood: contradicts output=Sigmoid", "output=softmax")),
    wrong_run("architecture.outputs=3", says=("architecture.outputs=3: the data have 10 classes", "10 or null")),
    wrong_run("batching.size=5000", says=("batching.size=5000: ", "only 1438 training examples")),
    wrong_run("batching=with_replacement", "batching.size=2000", says=("batching.size=2000: ", "only 1438")),
    wrong_run("data.subset=5", says=("batching.size=32: ", "only 5 training examples")),
    wrong_run("data.subset=5000", says=("data.subset=5000: ", "only 1438 training rows")),
    wrong_run("optimizer.nesterov=true", says=("optimizer.nesterov=True: needs momentum > 0",)),
    wrong_run("optimizer=nesterov", "optimizer.momentum=0", says="needs momentum > 0"),
    wrong_run("optimizer=adam", "optimizer.beta1=1", says="optimizer.beta1=1.0: must be in [0, 1)"),
    wrong_run("optimizer=adam", "optimizer.epsilon=0", says="optimizer.epsilon=0.0: must be >= 1e-30 and finite"),
    wrong_run("optimizer=adam", "optimizer.momentum=0.9", says="optimizer.momentum with optimizer=momentum"),
    wrong_run("beta1=0.8", says="optimizer.beta1 with optimizer=adam"),
    wrong_run("architecture=chain", says=("architecture=Chain: ", "1 input and 1 target, got 64 and 10", "data=point")),
    wrong_run("data=diabetes", says=("cost=LogLikelihood: ", "half_squared_error")),
    wrong_run("data=diabetes", "cost=cross_entropy", f"{OUTPUT}=sigmoid", says=("cost=CrossEntropy: ", "[0, 1]")),
    wrong_run("data=diabetes", "cost=squared_error", f"{OUTPUT}=sigmoid", says=("output=Sigmoid: ", "output=identity")),
    wrong_run("data=teacher", "cost=squared_error", f"{OUTPUT}=tanh", says=("output=Tanh: ", "output=identity")),
    wrong_run("activation=softmax", says=("activation=Softmax: for the output layer only",)),
    wrong_run("+activation@layer_activations.layer_02=softmax", says="layer_activations.layer_02=Softmax: for the"),
    wrong_run("+activation@layer_activations.layer_09=relu", says=("layer_activations.layer_09: ", "has 3 layers")),
    wrong_run(f"+layer_activations.first={RELU}", says=("layer_activations.first: ", "layer_01")),
    wrong_run(
        "init=given", "init.weights.values=[[[1.0]]]", "init.biases.values=[[[1.0]]]",
        says=("init: values[0]: shape (1, 1)", "layer 1 needs (30, 64)"),
    ),
    wrong_run("data=point", "data.source.x=[[1],[2]]", says=("data.source.x, y: ", "(2, 1) and (1, 1)")),
    wrong_run("data=point", "data.source.x=[[1],[2,3]]", says=("data.source.x, y: ", "equal lengths")),
    wrong_run(
        "data=point", "data.source.x=[[nan]]", "batching=full_batch", *REGRESSION, says=("data.source: ", "not finite")
    ),
    wrong_run("architecture.hidden=[1000000000000]", says=("architecture=Mlp: ", "75000000000010 parameters", "GiB")),
    wrong_run("data=gaussian_noise", "data.source.examples=100000000000", says=("data.source: ", "memory")),
]  # fmt: skip
FILES = [
    wrong_run("data=csv", "data.source.path=/no.csv", "data.source.target=y", says="data.source.path=/no.csv: no such"),
    wrong_run("data=parquet", "data.source.path={files}/table.csv", "data.source.target=y", says=("path=", "cannot")),
    wrong_run("data=csv", "data.source.path={files}/empty.csv", "data.source.target=y", says=("path=", "is empty")),
    wrong_run(*TABLE, "data.source.target=kindd", says="data.source.target=kindd: no such column; did you mean kind?"),
    wrong_run(*TABLE, "data.source.target=kind", says=("data.source.missing=refuse: ", "'a'", "line 5", "drop")),
    wrong_run(
        *TABLE, "data.source.target=kind", "data.source.missing=drop",
        says=("data.source.categorical=refuse: ", "'colour'", "one_hot"),
    ),
    wrong_run(
        *TABLE, "data.source.target=kind", "data.source.missing=drop", "data.source.categorical=one_hot",
        "data.source.task=regression", says=("data.source.target=kind: holds texts", "classification"),
    ),
    wrong_run(*TABLE, "data.source.target=a", "data.source.missing=dorp", says="missing=dorp: not an option; did you"),
    wrong_run("data=mnist", "data.source.folder=/nope", says=("data.source.folder=/nope: no train-im", "four MNIST")),
    wrong_run("data=fashion_mnist", "data.source.folder=/nope", says=("folder=/nope: ", "apt install dataset-fashion")),
    wrong_run("data=mnist", "data.source.folder={files}/text", says=("data.source.folder=", "not an IDX file")),
    wrong_run("data=mnist", "data.source.folder={files}/short", says=("data.source.folder=", "should hold (20, 3, 3)")),
]  # fmt: skip
TRACKING = [
    wrong_run("tracking.uri=foo", says=("tracking.uri=foo: ", "sqlite:///FILE")),
    wrong_run("tracking.uri=ftp://x", says=("tracking.uri=ftp://x: ", "http(s)://HOST:PORT")),
    wrong_run("tracking.uri=sqlite:///", says=("tracking.uri=sqlite:///: ", "is a directory")),
    wrong_run("tracking.uri=http://127.0.0.1:1", says=("tracking.uri=http://127.0.0.1:1: no server answers",)),
]
TARGETS = [
    value(f"{SIGMA_TARGET}=engine.activations.Tnh", "has no Tnh; did you mean Tanh?"),
    value(f"{SIGMA_TARGET}=engine.activation.Tanh", "cannot import 'engine.activation'"),
    value(f"{SIGMA_TARGET}=engine.activations.Activation", "must be a class or a function that can be called"),
    value(f"{SIGMA_TARGET}=engine.costs.SquaredError", "must be an Activation"),
    value(f"{SIGMA_TARGET}=pipeline.sweeps.sweep.run_name", "unknown key", "+activation.foo=1", shown="activation.foo"),
    value(f"{SIGMA_TARGET}=pipeline.config.schema.Sigmoid", "has no Sigmoid"),
    value(f"{SIGMA_TARGET}=pipeline.reproducibility.fingerprint.lru_cache", "defined in functools, name it there"),
    value(f"{SIGMA_TARGET}=os.system", "must be a class or a function"),
    value(f"{SIGMA_TARGET}=Tanh", "dotted path"),
    value(f"{SIGMA_TARGET}=..Tanh", "dotted path"),
    value(f"{SIGMA_TARGET}=null", "dotted path", shown=f"{SIGMA_TARGET}=None"),
    value("+activation._partial_=true", "must be an Activation", shown=f"{SIGMA_TARGET}=engine.activations.Sigmoid"),
]  # fmt: skip
GRAMMAR = [
    wrong_run(text, says=(shown or f"error: {text}: ", "cannot be read as key=value"))
    for text, shown in (
        ("seed", ""), ("a b c", ""), ("seed=[1", ""), ("seed==", ""), ("seed='", ""), ("name=it's", ""), ("=", ""),
        ("name=\u00e9\u2620", ""), ("", "error: : "), ('"', ""), ("@=1", ""), ("seed=1\nfoo=2", "seed=1 foo=2: "),
    )
]  # fmt: skip
SWEEPS = [
    wrong_run("activation=relu,tanh", says=("activation: several values make a sweep", "gradvitals sweep")),
    wrong_run("seed=1,2", says="seed: several values make a sweep"),
    wrong_sweep("activation=tanh,relu,rellu", says=("activation=rellu: no such option; did you mean relu?",)),
    wrong_sweep("seed=0,1,-1", says=("seed=-1: must be >= 0", "cell seed=-1")),
    wrong_sweep("optimizer.learning_rate=0.1,nan", says=("learning_rate=nan: ", "cell optimizer.learning_rate=nan")),
    wrong_sweep("batching.size=10,5000", says=("batching.size=5000: ", "only 1438", "cell batching.size=5000")),
    wrong_sweep(
        "activation=relu,softmax", "epochs=1,2", says=("activation=Softmax: ", "cell activation=softmax, epochs=1")
    ),
    wrong_sweep(
        "experiment=depth", "architecture.depth=20,0", says=("architecture.depth=0: ", "cell activation=sigmoid")
    ),
    wrong_sweep("experiment=dept", says="did you mean depth?"),
    wrong_sweep("+foo=1,2", says=("foo: unknown key",)),
    wrong_sweep("seed=", says="seed=: must be an integer"),
    wrong_sweep("seed=range(0,0)", says="the sweep has no cells"),
    wrong_sweep("seed=interval(0,1)", says=("seed=interval(0,1): ", "allowed: a,b, choice, range, glob")),
    wrong_sweep("hydra.sweeper.params=5", says="hydra.sweeper.params=5: "),
    wrong_sweep("tracking=sqlite,server", says="tracking.uri=???: is missing"),
    wrong_sweep("tracking.experiment=a,b", says="tracking: must be the same in every cell"),
]
COMMANDS = [
    wrong_run("--config-dir", "/nope", says="--config-dir=/nope: no such directory"),
    wrong_run("--config-dir", "", says="--config-dir=: no such directory"),
    wrong_run("hydra.searchpath=[file:///nope]", says=("hydra.searchpath=[file:///nope]: ", "/nope", "not available")),
    wrong_run("--config-dir", "{files}/broken", "activation=mine", says="mine.yaml"),
    wrong_run("--nope", says="No such option '--nope'"),
    Wrong(("rnu",), ("'rnu'", "'run'")),
    Wrong(("trace", "activation=sigmiod"), ("did you mean sigmoid?",)),
    Wrong(("trace", "data=digits"), ("architecture: ", "too large to print", "16")),
    Wrong(("show", "seed=-1"), ("seed=-1: must be >= 0",)),
    Wrong(("reproduce", "abc", "--uri", "foo"), ("tracking.uri=foo: ", "sqlite:///FILE")),
    Wrong(("reproduce", "abc", "--uri", "sqlite:///{store}/x.db"), ("x.db: no store there yet",)),
    Wrong(("ui", "--uri", "sqlite:///{store}/x.db"), ("x.db: no store there yet", "gradvitals sweep")),
    Wrong(("ui", "--port", "99999"), ("port 99999: must be in 1 ... 65535",)),
    Wrong(("ui", "--port", "abc"), ("--port", "abc")),
]
WRONG = [*UNKNOWN, *GONE, *TYPES, *RANGES, *CONTRADICTIONS, *FILES, *TRACKING, *TARGETS, *GRAMMAR, *SWEEPS, *COMMANDS]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a table with a missing value, truncated images and a config file that is not YAML."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.standard_normal(100), "colour": ["red", "blue"] * 50, "kind": ["x", "y"] * 50})
    frame.loc[3, "a"] = None
    frame.to_csv(folder / "table.csv", index=False)
    (folder / "empty.csv").touch()
    for name in ("text", "short"):
        (folder / name).mkdir()
        write_idx(folder / name, rng, train=20, test=10)
    (folder / "text" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"once upon a time"))
    short = folder / "short" / "train-images-idx3-ubyte.gz"
    short.write_bytes(gzip.compress(gzip.decompress(short.read_bytes())[:-3]))
    (folder / "broken" / "activation").mkdir(parents=True)
    (folder / "broken" / "activation" / "mine.yaml").write_text("_target_: [mine\nalpha: }\n")
    return folder


def command_line(wrong: Wrong, files: Path, store: Path) -> list[str]:
    """Return the arguments with folders filled in, and a store that must not be created."""
    places = {"{files}": str(files), "{store}": str(store), "${{": "${", "}}": "}"}
    argv = list(wrong.argv)
    for mark, place in places.items():
        argv = [text.replace(mark, place) for text in argv]
    if argv[:1] in (["run"], ["sweep"]) and not any(text.startswith("tracking") for text in argv):
        argv.append(f"tracking.uri=sqlite:///{store}/x.db")
    return argv


def check(message: str, wrong: Wrong) -> None:
    assert message.startswith("error: ")
    assert message.endswith("\n")
    assert len(message.splitlines()) == 1, "one line"
    assert "Traceback" not in message
    for part in wrong.says:
        assert part in message


# Each kind of mistake has several cases: the default tier takes every second one.
CASES = [pytest.param(wrong, marks=pytest.mark.thorough) if n % 2 else wrong for n, wrong in enumerate(WRONG)]


@pytest.mark.parametrize("wrong", CASES, ids=str)
def test_wrong_inputs_are_reported_in_one_line(
    wrong: Wrong, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # main() would keep its handler after the test
    start_time = time.perf_counter()
    assert main(command_line(wrong, files, tmp_path)) == 2
    assert time.perf_counter() - start_time < 30
    output = capsys.readouterr()
    assert output.out == ""
    check(output.err, wrong)
    assert list(tmp_path.iterdir()) == []


BY_PROCESS = [
    wrong_run("activation=sigmiod", says="activation=sigmiod: no such option; did you mean sigmoid?"),
    pytest.param(
        wrong_run("optimizer.learning_rate=nan", says="optimizer.learning_rate=nan: must be >= 0 and finite"),
        marks=pytest.mark.thorough,
    ),
    pytest.param(
        wrong_sweep("experiment=smoke", "seed=0,-1", says=("seed=-1: must be >= 0", "seed=-1)")),
        marks=pytest.mark.thorough,
    ),
    Wrong(("rnu",), ("'rnu'",)),
]


@pytest.mark.parametrize("wrong", BY_PROCESS, ids=str)
def test_process_exits_with_2_for_wrong_input(wrong: Wrong, files: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pipeline", *command_line(wrong, files, tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    check(done.stderr, wrong)
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_are_many_and_distinct() -> None:
    assert len({wrong.argv for wrong in WRONG}) == len(WRONG) >= 45


def test_mistake_is_reported_before_a_long_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_time = time.perf_counter()
    assert main(["run", "epochs=1000000000", "data.subset=5", f"tracking.uri=sqlite:///{tmp_path}/x.db"]) == 2
    assert time.perf_counter() - start_time < 30
    assert "batching.size=32" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["architecture.hidden=[]", "probes=none", "++seed=3", 'name="é ☠"', "name=5"])
def test_unusual_overrides_are_accepted(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", override]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "seed:" in output.out
