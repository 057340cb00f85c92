"""Command lines that people know from elsewhere, odd config files and folders, and sizes beyond any machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support import hostile
from support.commands import Invocation, invoke

PACKAGE = "# @package _global_\n"
COMPOSING = ("show", "run", "sweep", "search", "trace")


def refusal(done: Invocation) -> str:
    """Return the one line of a refusal, which comes at once."""
    assert done.code == 2, done
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert len(done.err) < 1500
    return done.err


@pytest.mark.parametrize("command", COMPOSING)
@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "hydra.run.dir=out",
            "hydra.run.dir=out: has no effect; runs are in the store; to choose its place write tr",
        ),
        ("hydra.sweep.dir=out", "write tracking.uri=sqlite:///FILE"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib: has no effect; for several processes write --jobs n"),
        ("+hydra.launcher.n_jobs=2", "write --jobs n"),
        ("hydra.job.chdir=true", "hydra.job.chdir=true: has no effect; of Hydra's settings, only hydra.searchpath has"),
        ("~hydra", "has no effect"),
        ("hydra.sweeper.params={activation:[relu,tanh]}", "gradvitals sweep activation=relu,tanh"),
        ("-m", "-m: no such option; a sweep is a command of its own: gradvitals sweep KEY=A,B"),
        ("--multirun", "--multirun: no such option; a sweep is a command of its own"),
        ("--cfg=job", "--cfg: no such option; gradvitals show prints the composed config"),
        ("--config-name=x", "--config-name: no such option; write experiment=NAME"),
        ("--config-path=x", "--config-path: no such option; write --config-dir DIR"),
    ],
)
def test_settings_of_hydras_own_command_line_name_what_to_write(command: str, override: str, says: str) -> None:
    assert says in refusal(invoke(command, override))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+experiment=depth", "+experiment=depth: this group is in the config already; write experiment=depth"),
        ("++data=iris", "++data=iris: this group is in the config already; write data=iris"),
        ("activation=[relu,tanh]", "must name one option; several make a sweep: gradvitals sweep activation=relu,tanh"),
        ("activation@output=[relu]", "must name one option"),
        (
            "experiment=[depth,smoke]",
            "must name one option; several make a sweep: gradvitals sweep exp",
        ),
    ],
)
def test_group_gets_one_option(override: str, says: str) -> None:
    assert says in refusal(invoke("show", override))
    assert says in refusal(invoke("sweep", override))


def test_list_of_sets_of_probes_is_merged() -> None:
    done = invoke("show", "probes=[essential,noise]")
    assert done.code == 0
    assert "gradient_norm:" in done.out
    assert "gradient_signal:" in done.out


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("learning_rate", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("+optimizer.lr", "optimizer.learning_rate"),
        ("+learning_rate", "optimizer.learning_rate"),
        ("Learning-Rate", "optimizer.learning_rate"),
        ("batching.batch_size", "batching.size"),
        ("hidden", "architecture.hidden"),
        ("depth", "architecture.depth with architecture=deep"),
        ("n_epochs", "epochs"),
        ("weight_decay", "optimizer.weight_decay"),
        ("momentum", "optimizer.momentum"),
        ("loss", "cost"),
        ("dataset", "data"),
        ("clip", "clipping@optimizer.clipping"),
        ("data.target", "data.source.target with data=csv"),
        ("train_exampels", "evaluation.train_examples"),  # a slip of the pen in the last part
        ("keep_steps", "divergence.keep_steps"),  # exists elsewhere
        ("data.seed", "seed"),
        ("seeed", "seed"),
    ],
)
def test_unknown_key_suggests_the_whole_key_that_was_meant(given: str, meant: str) -> None:
    assert f"; did you mean {meant}? (allowed: " in refusal(invoke("show", f"{given}=0.1"))


@pytest.mark.parametrize(("given", "meant"), [("activation=ReLU", "relu"), ("init=He_Normal", "he_normal")])
def test_option_in_other_case_is_suggested(given: str, meant: str) -> None:
    assert f"did you mean {meant}?" in refusal(invoke("show", given))


def folder_with(path: Path, text: str | bytes, name: str = "experiment/own.yaml") -> str:
    """Write an option of a user's own, and return the folder for ``--config-dir``."""
    file = path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


BOMB, MERGED_BOMB = hostile.YAML[8:10]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 1\n", "own.yaml: its first line must be: # @package _global_"),
        ("", "own.yaml: its first line must be: # @package _global_"),
        ("# a comment first\n# @package _global_\nepochs: 1\n", "its first line must be"),
        (b"\xef\xbb\xbf# @package _global_\nepochs: 1\n", "own.yaml: starts with a byte-order mark; save it as UTF-8"),
        (f"{PACKAGE}epochs: 1\n".encode("utf-16"), "own.yaml: must be UTF-8, without a byte-order mark"),
        (f"{PACKAGE}x: &a [*a]", "own.yaml: more than 100000 values or 40 levels"),
        (f"{PACKAGE}x: &a {{b: *a}}", "own.yaml: more than 100000 values or 40 levels"),
        (f"{PACKAGE}{BOMB}", "own.yaml: more than 100000 values or 40 levels"),
        (f"{PACKAGE}{MERGED_BOMB}", "own.yaml: more than 100000 values or 40 levels"),
        (f"{PACKAGE}x: {'[' * 3000}{']' * 3000}", "own.yaml: more than 100000 values or 40 levels"),
        (f"{PACKAGE}name: {'x' * 1_100_000}", "own.yaml: 1100026 characters; at most 1000000 are read"),
        (f"{PACKAGE}seed: ${{epochs}}\nepochs: ${{seed}}\n", "seed: Recursive interpolation detected"),
        (f"{PACKAGE}defaults:\n  - own\n", "own"),
    ],
)
def test_odd_experiment_file_is_refused(text: str | bytes, says: str, tmp_path: Path) -> None:
    start_time = time.perf_counter()
    folder = folder_with(tmp_path, text)
    assert says in refusal(invoke("show", "--config-dir", folder, "experiment=own"))
    assert time.perf_counter() - start_time < 20


def test_file_of_any_group_is_checked(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, b"\xef\xbb\xbf_target_: engine.activations.Relu\n", "activation/own.yaml")
    says = "own.yaml: starts with a byte-order mark"
    assert says in refusal(invoke("show", "--config-dir", folder, "activation=own"))
    assert says in refusal(invoke("sweep", f"hydra.searchpath=['{folder}']", "activation=relu,own"))
    assert invoke("show", "--config-dir", folder, "activation=relu").code == 0  # an option that is not chosen


@pytest.mark.parametrize("values", ["[relu, tanh]", "\n        - relu\n        - tanh"])
def test_list_in_sweeper_params_is_refused(values: str, tmp_path: Path) -> None:
    text = f"{PACKAGE}hydra:\n  sweeper:\n    params:\n      activation: {values}\n"
    done = invoke("sweep", "--config-dir", folder_with(tmp_path, text), "experiment=own")
    assert "hydra.sweeper.params.activation=['relu', 'tanh']: must be one text; activation: relu,tanh" in refusal(done)


def test_odd_config_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    inside = Path(folder_with(tmp_path / "conf", f"{PACKAGE}epochs: 1\n")) / "experiment"
    for folder, says in (
        (file, "is a file; give the folder that holds the folders of groups"),
        (empty, "holds no option of a group, such as activation/mine.yaml"),
        (inside, "holds no option of a group"),
        (tmp_path / "missing", "no such directory"),
        ("x" * 5000, "... (5000 characters): cannot be read (File name too long)"),
        ("a\0b", "cannot be read (embedded null byte)"),
        ("~nobody-of-this-name/x", "no such directory"),
    ):
        message = refusal(invoke("show", "--config-dir", str(folder)))
        assert message.startswith("error: --config-dir=")
        assert says in message or "cannot be read" in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (f"seed={'9' * 5000}", "cannot be read as key=value"),
        (f"name={'x' * 100_000}", "... (100005 characters): too long; allowed: 10000"),
        (f"{'a.' * 5000}b=1", "too long"),
        (f"{'a.' * 90}b=1", "unknown key 'a'"),
        (f"architecture.hidden={'[' * 500}{']' * 500}", "more than 40 levels of brackets"),
        (f"+layer_activations={'{a:' * 300}1{'}' * 300}", "more than 40 levels of brackets"),
        (f"activation={'x' * 5000}", "File name too long"),
        ("seed=${seed}", "Recursive interpolation detected"),
        ("name=${name}", "Recursive interpolation detected"),
    ],
    ids=lambda text: text[:20],
)
def test_long_deep_and_recursive_overrides_are_refused_at_once(override: str, says: str) -> None:
    start_time = time.perf_counter()
    assert says in refusal(invoke("show", override))
    assert time.perf_counter() - start_time < 20


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("seed=range(0,1000000000)",), "seed=range(0,1000000000): more than 10000 values"),
        (("seed=range(0,1000)", "epochs=range(0,1000)"), "the sweep has 1000000 cells; at most 10000 are run"),
        (("data=gaussian_noise", "data.source.classes=1000000000"), "data.source.classes=1000000000: must be <= 10000"),
        (("data=two_spirals", "data.source.examples=1000000000"), "data.source.examples=1000000000: must be <= 10000"),
        (("data=gaussian_noise", "data.source.inputs=1000000000"), "memory"),
        (("architecture.outputs=1000000000",), "architecture.outputs=1000000000: "),
        (("seed=0,1", "architecture.hidden=[1000000000]"), "parameters"),
        (("replicates=1000000000",), "replicates=1000000000: must be <= 100000"),
    ],
)
def test_sizes_beyond_any_machine_are_refused_at_once(overrides: tuple[str, ...], says: str, tmp_path: Path) -> None:
    start_time = time.perf_counter()
    assert says in refusal(invoke("sweep", *overrides, f"tracking.uri=sqlite:///{tmp_path}/x.db"))
    assert time.perf_counter() - start_time < 20


@pytest.mark.parametrize(
    ("overrides", "cell"),
    [
        (("activation=relu,tanh", "seed=3,4"), "(cell activation=relu, seed=3)"),
        (("seed=3",), "(cell activation=sigmoid, architecture.depth=2)"),
        ((), "(cell activation=sigmoid, architecture.depth=2)"),
        (("experiment=smoke",), "(cell activation=sigmoid)"),
    ],
)
def test_default_experiment_is_swept_unless_an_override_sweeps(overrides: tuple[str, ...], cell: str) -> None:
    done = invoke("sweep", *overrides, "batching.size=99999")
    assert refusal(done).endswith(f"{cell}\n")
