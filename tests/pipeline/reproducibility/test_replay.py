"""Replays are identical or report the first difference; a logged config calls only what is allowed."""

from __future__ import annotations

import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from support.commands import invoke
from support.configs import require

from pipeline.cli import main
from pipeline.config.compose import compose_run
from pipeline.progress import bars
from pipeline.reproducibility import worktree
from pipeline.reproducibility.environment import Provenance, provenance
from pipeline.reproducibility.environment_diff import changes
from pipeline.reproducibility.hash_chain import CHAIN_FILE, HEAD_TAG, NORMS_TAG
from pipeline.reproducibility.match_machine import REQUIRED_FLAGS, can_restart_process, cpu_flags, match_machine
from pipeline.reproducibility.record_diff import first_record_difference
from pipeline.runs.early_stopping import Pruning
from pipeline.runs.job import RunOptions, prepare_cell
from pipeline.runs.stack import run_stack
from pipeline.tracking.artifact_parsers import parse_config
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.training.records import Record, tidy

pytestmark = pytest.mark.xdist_group("replay")

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """Return (uri, run id, artifact folder) of a small finished run."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    overrides = ["experiment=smoke", "schedule=every", "schedule@chain.schedule=every", "activation=tanh"]
    assert invoke("run", *overrides, f"tracking.uri={uri}").code == 0
    store = Store.open(TrackingConfig(uri, "gradvitals"))
    (run,) = store.client.search_runs([store.experiment_id])
    return uri, run.info.run_id, Path(run.info.artifact_uri.removeprefix("file://"))


def reproduce(logged: tuple[str, str, Path], *arguments: str) -> int:
    return main(["reproduce", "--uri", logged[0], logged[1], *arguments])


def test_replay_is_identical(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(logged) == 0
    out = capsys.readouterr().out
    assert "identical: all" in out
    assert "records and the chain at " in out


def test_start_of_run_id_is_enough(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--uri", logged[0], logged[1][:8]]) == 0
    assert "identical" in capsys.readouterr().out


def test_config_of_older_commit_is_refused_with_worktree_commands(
    logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class has another name in this code: the commands come first, then the error line."""
    older = "probes.delta_rms._target_=engine.probes.DeltaRms"
    assert reproduce(logged, older) == 2
    assert "worktree" not in capsys.readouterr().out
    now = provenance()
    older_environment = Provenance(now.facts | {"git.commit": "0" * 40}, now.patch, now.packages)
    monkeypatch.setattr("pipeline.reproducibility.replay.provenance", lambda: older_environment)
    assert reproduce(logged, older) == 2
    printed = capsys.readouterr()
    assert f"git worktree add ../gradvitals-{now.facts['git.commit'][:8]} {now.facts['git.commit']}" in printed.out
    assert printed.err.startswith(
        "error: probes.delta_rms._target_=engine.probes.DeltaRms: engine.probes has no DeltaRms"
    )


def test_learning_rate_changed_by_one_ulp_differs_from_first_update(
    logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The next float64 after 0.1: only the update of step 0 differs, so θ differs from step 1."""
    assert (
        reproduce(logged, f"optimizer.learning_rate={np.nextafter(0.1, 1)!r}".replace("np.float64(", "").rstrip(")"))
        == 1
    )
    out = capsys.readouterr().out
    assert "differs: config (config.sha256) was" in out
    assert "different: step 1, layer 1, W, replicate 0: norm " in out
    assert "; all equal at step 0" in out
    assert "first different record: step 1, layer " in out


def test_other_seed_differs_at_first_step(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(logged, "seed=7") == 1
    out = capsys.readouterr().out
    assert "different: step 0, the rows of the batch, replicate 0" in out
    assert "first different record: step 0, layer 1," in out


@contextmanager
def altered(path: Path, content: bytes | None) -> Iterator[None]:
    """Change or delete a file until the end of the block."""
    original = path.read_bytes()
    try:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        yield
    finally:
        path.write_bytes(original)


def parquet(frame: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    frame.to_parquet(content, index=False)
    return content.getvalue()


def test_tampered_chain_is_reported(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """One hexadecimal digit of a digest in the middle is changed; the records are not."""
    path = logged[2] / CHAIN_FILE
    chain = pd.read_parquet(path)
    row = chain.index[(chain["step"] == 5) & (chain["quantity"] == "b") & (chain["layer"] == 2)][0]
    digest = str(chain.loc[row, "digest"])
    chain.loc[row, "digest"] = ("0" if digest[0] != "0" else "1") + digest[1:]
    with altered(path, parquet(chain)):
        assert reproduce(logged) == 1
    out = capsys.readouterr().out
    assert "tampered: the chain was changed after it was logged: the link of step 5, replicate 0 does not follow" in out
    assert "different: step 5, layer 2, b, replicate 0: norm " in out
    assert "all records are identical" in out


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no chain.parquet"), (b"PAR1 no more", "not readable parquet"), (b"", "not readable parquet")],
)
def test_missing_or_unreadable_chain_is_reported(
    logged: tuple[str, str, Path], content: bytes | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with altered(logged[2] / CHAIN_FILE, content):
        assert reproduce(logged) == 1
    out = capsys.readouterr().out
    assert "tampered: " in out
    assert says in out


def test_tampered_record_is_reported(logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = logged[2] / "records.parquet"
    frame = pd.read_parquet(path)
    frame["value"] = np.where(frame.index == 100, np.nextafter(frame["value"], np.inf), frame["value"])
    with altered(path, parquet(frame)):
        assert reproduce(logged) == 1
    out = capsys.readouterr().out
    assert f"different: step {frame['step'][100]}, layer {frame['layer'][100]}, {frame['probe'][100]}" in out
    assert "the chain is identical at all steps" in out


def test_run_without_chain_is_compared_by_records(
    logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    client = Store.open(TrackingConfig(logged[0], "gradvitals")).client
    tags = {key: client.get_run(logged[1]).data.tags[key] for key in (HEAD_TAG, NORMS_TAG)}
    config = (logged[2] / "config.yaml").read_text()
    raw_config = yaml.safe_load(config)
    del raw_config["chain"], raw_config["checkpoints"]
    try:
        for key in tags:
            client.delete_tag(logged[1], key)
        with (
            altered(logged[2] / CHAIN_FILE, None),
            altered(logged[2] / "config.yaml", yaml.safe_dump(raw_config, sort_keys=False).encode()),
        ):
            assert reproduce(logged) == 0
    finally:
        for key, value in tags.items():
            client.set_tag(logged[1], key, value)
    assert "it has no chain" in capsys.readouterr().out


@pytest.mark.thorough
def test_exported_folder_is_replayed(
    logged: tuple[str, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    assert main(["export", "--uri", logged[0], "--run", logged[1], "--to", str(folder)]) == 0
    assert main(["reproduce", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"records and the chain at 7 steps, run {logged[1]}" in out
    with altered(folder / "config.yaml", (folder / "config.yaml").read_bytes().replace(b"seed: 0", b"seed: 1")):
        assert main(["reproduce", str(folder)]) == 2
    assert "config.yaml" in capsys.readouterr().err
    (folder / "run.json").unlink()
    assert main(["reproduce", str(folder)]) == 2
    assert main(["reproduce", str(tmp_path)]) == 2  # not an exported folder
    assert capsys.readouterr().err.count("error: ") == 2


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("os.system", "package 'os' is not allowed"),
        ("subprocess.Popen", "package 'subprocess' is not allowed"),
        ("engine.arrays.np.save", "cannot import 'engine.arrays.np'"),
        (
            "pipeline.reproducibility.environment.subprocess.run",
            "cannot import 'pipeline.reproducibility.environment.subprocess'",
        ),
        ("pipeline.reproducibility.environment.Path", "defined in pathlib"),
        ("pipeline.tracking.ui.prepare_server", "must be an Activation"),
        ("pipeline.reproducibility.record_diff.RecordDifference", "is missing|must be"),
    ],
)
def test_logged_config_calls_only_allowed_targets(
    logged: tuple[str, str, Path], target: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = logged[2] / "config.yaml"
    original = config.read_text()
    raw_config = yaml.safe_load(original)
    raw_config["activation"] = {"_target_": target}
    try:
        config.write_text(yaml.safe_dump(raw_config))
        assert reproduce(logged) == 2
    finally:
        config.write_text(original)
    error = capsys.readouterr().err
    assert error.startswith("error: activation")
    assert any(part in error for part in says.split("|")), error


def test_yaml_tags_are_refused() -> None:
    with pytest.raises(Exception, match="not readable YAML"):
        parse_config("seed: !!python/object/apply:os.system ['touch /tmp/never']\n", [])


def table(values: list[float], probe: str = "delta_rms") -> pd.DataFrame:
    return tidy([Record(step, probe, (1,), np.array([[value]]), True) for step, value in enumerate(values)])


def test_first_record_difference() -> None:
    """NaN equals NaN, −0 differs from 0, the last bit counts, and a shorter table is a difference."""
    assert first_record_difference(table([1.0, np.nan, np.inf]), table([1.0, np.nan, np.inf])) is None
    bit = first_record_difference(table([1.0, 2.0, 3.0]), table([1.0, np.nextafter(2.0, 3.0), 4.0]))
    assert bit is not None
    assert (bit.step, bit.layer, bit.probe, bit.first_value) == (1, 1, "delta_rms", 2.0)
    zero = first_record_difference(table([0.0]), table([-0.0]))
    assert zero is not None
    shorter = first_record_difference(table([1.0, 2.0]), table([1.0]))
    assert shorter is not None
    assert (shorter.step, shorter.second_value) == (1, None)
    assert "no such record" in shorter.describe("logged", "now")
    longer = first_record_difference(table([1.0]), table([1.0, 2.0]))
    assert longer is not None
    assert (longer.step, longer.first_value) == (1, None)
    assert first_record_difference(table([1.0]), table([1.0], probe="coherence")) is not None


CODE = "return np.subtract(1, np.square(a, out=out), out=out)\n\n\n@dataclass(frozen=True)\nclass Relu"


def run_id_in(printed: str) -> str:
    """Return the id in the command that a run prints at its end, in whichever form."""
    match = re.search(r"reproduce (?:RUN=)?([0-9a-f]{8,32})", printed)
    assert match is not None, printed
    return match[1]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.thorough
def test_worktree_commands_reproduce_run_of_older_commit(logged: tuple[str, str, Path], tmp_path: Path) -> None:
    """The run has a patch and its code changed since: the printed commands restore commit and patch."""
    require(shutil.which("git") is not None, "git is not installed")
    tree, uri = tmp_path / "project", logged[0]
    for name in ("engine", "pipeline", "conf"):
        shutil.copytree(PROJECT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tree)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]

    def git(*arguments: str) -> None:
        subprocess.run(["git", *identity, *arguments], cwd=tree, check=True, capture_output=True)

    def command(*arguments: str, cwd: Path = tree) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(cwd)}
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=cwd, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    (tree / ".gitignore").write_text("__pycache__\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    edit(tree / "engine" / "activations.py", CODE, CODE.replace("subtract(1,", "subtract(1 + 1e-15,"))  # the patch
    done = command("run", "experiment=smoke", "activation=tanh", f"tracking.uri={uri}")
    assert done.returncode == 0, done.stderr
    run_id = run_id_in(done.stdout)
    git("commit", "-qam", "two, with other code", "--allow-empty")
    edit(tree / "engine" / "activations.py", "subtract(1 + 1e-15,", "subtract(1 + 2e-15,")
    git("commit", "-qam", "three")
    done = command("reproduce", run_id, "--uri", uri)
    assert done.returncode == 1, done.stderr
    assert " with a patch of 2 changed lines, is " in done.stdout
    # the top layer's error is that of the softmax, which did not change; the layer below comes next in a step
    assert "different: step 0, layer 3, ∂C/∂W, replicate 0" in done.stdout
    assert "code that training runs is the same" not in done.stdout
    commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(commands) == 3, commands
    assert commands[2].startswith("make -C ../gradvitals-")
    for line in commands[:2]:
        shell = line.replace(".venv/bin/python", shlex.quote(sys.executable))
        subprocess.run(["bash", "-ec", shell], cwd=tree, check=True, capture_output=True, env=os.environ)
    place = tree.parent / shlex.split(commands[2])[2].removeprefix("../")
    verb, run, arguments = shlex.split(commands[2])[3:]
    assert (verb, run[: len(run_id) + 4], arguments) == ("reproduce", f"RUN={run_id}", f"ARGS=--uri {uri}")
    done = command("reproduce", run_id, "--uri", uri, cwd=place)
    assert done.returncode == 0, done.stdout
    assert "identical: all" in done.stdout
    assert "commit was" not in done.stdout


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_recorded_blas_is_the_one_of_numpy() -> None:
    """SciPy, which only some runs load, has its own BLAS."""
    before = {key: value for key, value in provenance().facts.items() if key.startswith("blas")}
    importlib.import_module("scipy.linalg")
    after = {key: value for key, value in provenance().facts.items() if key.startswith("blas")}
    assert before == after
    assert ";" not in after["blas"]


def test_worktree_commands() -> None:
    tree = "../gradvitals-01234567"
    lines = worktree.commands({"git.commit": COMMIT, "git.dirty": "true"}, "", "a run's $id", "sqlite:////a b/c.db")
    assert lines == [
        "# this repository does not have the commit: git fetch it first",
        f"git worktree add {tree} {COMMIT}",
        "# the run was recorded with untracked files, whose content was not logged",
        f"make -C {tree} reproduce RUN='a run'\"'\"'s $$id' ARGS='--uri '\"'\"'sqlite:////a b/c.db'\"'\"''",
    ]
    (last,) = worktree.commands({"git.commit": COMMIT}, "", "x", "postgresql://me:secret@host/db")[-1:]
    assert "secret" not in last
    for commit in ("", "unknown", "HEAD; rm -rf x", "--upload-pack=x", COMMIT + "\n", COMMIT[:-1]):
        assert worktree.commands({"git.commit": commit}, "", "x", None) == []


HASWELL = frozenset(["pni", "ssse3", "sse4_1", "sse4_2", "avx", "avx2", "fma", "bmi2"])


def tags(core_type: str, features: str = "X86_V3", numpy: str = "2.4", threads: str = "1") -> dict[str, str]:
    names = ("blas.core_type", "cpu.features", "package.numpy", "blas.threads")
    return dict(zip(names, (core_type, features, numpy, threads), strict=True))


@pytest.mark.parametrize(
    ("then", "variables", "unmatched"),
    [
        (tags("Haswell"), {}, []),
        (tags("Haswell; SkylakeX"), {}, []),  # NumPy's comes first
        (tags("Nehalem"), {"OPENBLAS_CORETYPE": "Nehalem"}, []),
        (tags("SkylakeX"), {}, ["core type SkylakeX needs avx512bw, avx512cd"]),
        (tags("Cooperlake; Haswell"), {}, ["core type Cooperlake needs avx512_bf16"]),
        (tags("x; LD_PRELOAD=y"), {}, ["core type x is not selectable"]),
        (tags("unknown"), {}, []),
        ({}, {}, []),
        (tags("Haswell", "none"), {"NPY_DISABLE_CPU_FEATURES": "X86_V3"}, []),
        (tags("Haswell", "X86_V3 X86_V4"), {}, ["CPU features X86_V4 are missing here"]),
        (tags("Haswell", "AVX2", numpy="2.3"), {}, ["CPU features: their names depend on the version of numpy"]),
        (tags("Haswell", threads="1; 2"), {}, []),
        (tags("Haswell", threads="many"), {}, ["BLAS threads many is not a valid number"]),
    ],
)
def test_match_machine_settings(then: dict[str, str], variables: dict[str, str], unmatched: list[str]) -> None:
    match = match_machine(then, tags("Haswell"), HASWELL)
    assert match.variables == variables
    assert len(match.unmatched) == len(unmatched)
    assert all(line.startswith(start) for line, start in zip(match.unmatched, unmatched, strict=True)), match.unmatched
    assert match.threads == 1


def test_core_type_is_not_set_for_unknown_cpu() -> None:
    assert match_machine(tags("Nehalem"), tags("Haswell"), frozenset()).variables == {}
    assert match_machine(tags("Haswell", threads="4"), tags("Haswell"), HASWELL).threads == 4
    assert not can_restart_process()  # this is pytest


@pytest.mark.thorough
def test_replay_restarts_with_recorded_core_type(
    logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nehalem's kernels give other bits than this machine's; the command restarts with them."""
    here = provenance().facts["blas.core_type"].partition(";")[0]
    is_newer = REQUIRED_FLAGS["Nehalem"] <= cpu_flags() | {"sse3"}
    require(
        is_newer and here in REQUIRED_FLAGS and here != "Nehalem", "an x86-64 CPU newer than Nehalem, with OpenBLAS"
    )
    uri = logged[0]
    command = [sys.executable, "-m", "pipeline"]
    overrides = ["experiment=smoke", "architecture.width=64", f"tracking.uri={uri}"]
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Nehalem"}
    done = subprocess.run([*command, "run", *overrides], cwd=PROJECT, env=environment, check=True, capture_output=True)
    run_id = run_id_in(done.stdout.decode())
    again = subprocess.run(
        [*command, "reproduce", run_id, "--uri", uri], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "restarting with OPENBLAS_CORETYPE=Nehalem" in again.stdout
    assert "identical: all" in again.stdout
    assert "core type was" not in again.stdout
    assert main(["reproduce", "--uri", uri, run_id]) == 1  # this process cannot restart
    out = capsys.readouterr().out
    assert "not set: OPENBLAS_CORETYPE=Nehalem, which must be set before the process starts" in out
    assert f"differs: core type was Nehalem, is {here}" in out
    assert "different: step 0, layer " in out


def facts(named: dict[str, str], patch: str = "", packages: str = "") -> Provenance:
    return Provenance(named, patch, packages)


def test_environment_changes_are_one_line_each() -> None:
    then = facts(
        {"git.commit": "a1", "git.dirty": "true", "code.sha256": "c", "python": "3.11", "blas": "x; y"},
        "+++ f\n+a\n-b\n",
        "numpy==1\nScikit_Learn==2\nonly-then==3\n",
    )
    now = facts(
        {"git.commit": "b2", "git.dirty": "false", "code.sha256": "c", "python": "3.12", "blas": "y; x"},
        "",
        "numpy==2\nscikit-learn==2\nonly-now==4\n",
    )
    assert [str(change) for change in changes(then, now)] == [
        "commit was a1 with a patch of 2 changed lines, is b2 (the code that training runs is the same)",
        "package numpy was 1, is 2",
        "package only-now was not installed, is 4",
        "package only-then was 3, is not installed",
        "Python was 3.11, is 3.12",
    ]
    assert changes(then, then) == []
    other_patch = facts(then.facts, "+++ f\n+a\n-c\n", then.packages)
    assert [str(c) for c in changes(then, other_patch)] == [
        "commit was a1 with a patch of 2 changed lines, is a1 with a patch of 2 changed lines, but another patch "
        "(the code that training runs is the same)"
    ]
    tagged = facts({**then.facts, "package.numpy": "3"}, then.patch)
    assert "package numpy was 1, is 3" in [str(c) for c in changes(then, tagged)]  # from the facts, without a full list


def test_pruned_run_is_replayed_up_to_its_last_step(
    logged: tuple[str, str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    raw_config = compose_run(
        ["experiment=smoke", "architecture.depth=14", "schedule=every", f"tracking.uri={logged[0]}"]
    )
    store = Store.open(TrackingConfig(logged[0], "gradvitals"))
    with bars(1, True) as progress:
        options = RunOptions(command="x", pruning=Pruning(1.0))
        ((_, done),) = run_stack([prepare_cell(raw_config, "pruned", {}, {})], store, options, progress)
    assert done is not None
    assert done.result.pruned
    assert main(["reproduce", "--uri", logged[0], done.result.run_id]) == 0
    assert "identical: all" in capsys.readouterr().out
