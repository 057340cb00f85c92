"""Time whole commands: the default sweep, many cells at initialisation, the customary way, and the start of a command.

Each command has a process of its own, and a store that exists before the clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import kernel, peer
from benchmarks.sweep_page import BrokenError, Goal, Outcome, UnavailableError
from pipeline.config.compose import compose_run
from pipeline.config.schema import build
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.tracking.store import Store, TrackingConfig
from pipeline.training.prepare import prepare_run

BASE = "cadba5f"  # the commit to compare the default sweep with
LAUNCHER = Path(__file__).with_name("launch.py")
EXIT_INVALID = 2  # exit code of a command with an invalid config


@dataclass(frozen=True)
class Usage:
    """What a command used.

    Attributes:
        seconds: Wall-clock time.
        peak_bytes: The largest resident memory of its process.
    """

    seconds: float
    peak_bytes: int


def run_command(arguments: Sequence[str], cwd: Path = PROJECT, exit_code: int = 0) -> Usage:
    """Run ``python`` with arguments in a process.

    Args:
        arguments: The arguments, such as ``["-m", "pipeline", "--help"]``.
        cwd: The folder in which Python starts.
        exit_code: The expected exit code.

    Raises:
        BrokenError: The command ended with another exit code.
    """
    # The limit on BLAS threads is this process's own: a user's shell does not set it.
    environment = {name: value for name, value in os.environ.items() if name not in kernel.THREADS}
    done = subprocess.run(
        [sys.executable, LAUNCHER, sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    )
    used = json.loads(done.stdout)
    if used["code"] != exit_code:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise BrokenError(f"python {' '.join(arguments[:3])} ended with exit code {used['code']}: {last[0][:200]}")
    return Usage(used["seconds"], used["peak_bytes"])


def pipeline_command(*arguments: str, cwd: Path = PROJECT, exit_code: int = 0) -> Usage:
    """Run ``python -m pipeline`` with arguments. The other arguments are those of :func:`run_command`."""
    return run_command(["-m", "pipeline", *arguments], cwd, exit_code)


@contextmanager
def new_store(cwd: Path = PROJECT) -> Iterator[str]:
    """Create a store with one run of no steps, and yield the override that selects it.

    Args:
        cwd: The checkout that creates the store.
    """
    with tempfile.TemporaryDirectory() as folder:
        override = f"tracking.uri=sqlite:///{Path(folder).resolve() / 'mlflow.db'}"
        pipeline_command("run", "epochs=0", override, cwd=cwd)
        yield override


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a temporary git worktree of a commit.

    Raises:
        UnavailableError: This is no git checkout, or it does not have the commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / commit
        try:
            added = _git("worktree", "add", "--detach", str(path), commit)
        except FileNotFoundError:
            raise UnavailableError("git is not installed") from None
        if added.returncode:
            raise UnavailableError(f"this is no git checkout that has commit {commit}")
        try:
            yield path
        finally:
            _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)


DEFAULT_RATIO = f"time of `make sweep` / time at commit {BASE}"
DEFAULT_SECONDS = "time of `make sweep`"
DEFAULT_GOALS = (Goal(DEFAULT_RATIO, most=0.4), Goal(DEFAULT_SECONDS, unit="s"))


def time_default(quick: bool) -> Outcome:
    """Compare the default sweep (12 cells of 5 replicates, existing store) with the one at ``BASE``."""
    smaller = ["activation=tanh,relu", "architecture.depth=2", "epochs=1", "replicates=1"] if quick else []
    command = ["sweep", "experiment=depth", *smaller]
    ours: list[float] = []
    before: list[float] = []
    with checkout(BASE) as old:
        for place in range(1 if quick else 5):
            sides = [(PROJECT, ours), (old, before)]
            for cwd, seconds in sides if place % 2 else reversed(sides):
                with new_store(cwd) as store:
                    seconds.append(pipeline_command(*command, store, cwd=cwd).seconds)
    return Outcome({DEFAULT_RATIO: np.divide(ours, before), DEFAULT_SECONDS: ours})


@dataclass(frozen=True)
class Grid:
    """A sweep over learning rate, scale of the initialisation and seed.

    Attributes:
        rates: Number of learning rates.
        scales: Number of standard deviations of the initial weights, relative to 1/√fan_in.
        seeds: Number of seeds.
        steps: Steps of each cell.
    """

    rates: int
    scales: int
    seeds: int
    steps: int

    @property
    def cells(self) -> int:
        """The number of cells."""
        return self.rates * self.scales * self.seeds

    def overrides(self) -> list[str]:
        """Return the overrides of the sweep; one value of a key is no sweep over it."""
        return [
            "activation=tanh",
            "init=gaussian_fan_in",
            f"steps={self.steps}",
            f"optimizer.learning_rate={_values(np.geomspace(0.003, 0.1, self.rates))}",
            f"init.weights.std={_values(np.geomspace(0.5, 2.0, self.scales))}",
            f"seed={','.join(map(str, range(self.seeds)))}",
        ]


def _values(numbers: Sequence[float] | np.ndarray) -> str:
    return ",".join(f"{number:.4g}" for number in numbers)


FULL_GRID, QUICK_GRID = Grid(8, 8, 4, 500), Grid(2, 2, 1, 10)
FASHION = ["data=fashion_mnist", "architecture.hidden=[30,30]"]  # 784-30-30-10


def require_fashion_mnist() -> None:
    """Check that the files of Fashion-MNIST are on this machine.

    Raises:
        UnavailableError: The files are absent or unreadable.
    """
    try:
        prepare_run(build(compose_run(FASHION)))
    except ConfigError:
        raise UnavailableError("the files of Fashion-MNIST are absent") from None


CUSTOMARY = "time of a customary cell / time of ours"
CUSTOMARY_ALL = "the same with every series logged (tracking.metrics=all)"
CUSTOMARY_CELL, OUR_CELL = "a customary cell (extrapolated)", "our cell"
CUSTOMARY_GOALS = (
    Goal(CUSTOMARY, least=40.0),
    Goal(CUSTOMARY_ALL),
    Goal(CUSTOMARY_CELL, unit="s"),
    Goal(OUR_CELL, unit="s"),
)


def time_customary(quick: bool) -> Outcome:
    """Compare a sweep of 256 cells with one PyTorch process a cell, one process at a time on both sides."""
    require_fashion_mnist()
    if peer.version() is None:
        raise UnavailableError(f"PyTorch is not installed (`{peer.INSTALL}`)")
    grid, rounds, sample = (QUICK_GRID, 1, 1) if quick else (FULL_GRID, 3, 4)
    command = ["sweep", "--jobs", "1", *FASHION, *grid.overrides()]
    customary, ours, complete = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder).resolve() / "mlflow.db"

        def cells(count: int, first: int, steps: int) -> float:
            seeds = range(first, first + count)
            spent = [
                run_command(["-m", "benchmarks.customary_cell", "0.01", str(seed), str(database), str(steps)])
                for seed in seeds
            ]
            return sum(usage.seconds for usage in spent) / count

        cells(1, 0, 1)  # creates the store
        for place in range(rounds):
            customary.append(cells(sample, 1 + place * sample, grid.steps))
            with new_store() as store:
                ours.append(pipeline_command(*command, store).seconds / grid.cells)
            with new_store() as store:
                complete.append(pipeline_command(*command, store, "tracking.metrics=all").seconds / grid.cells)
    section = f"""\
## The customary way

A customary cell is a process of `benchmarks/customary_cell.py`: PyTorch eager, `mlflow.log_metrics` in each of
{grid.steps} steps, random inputs in place of the data set. Its time is the mean of {sample} cells a round,
extrapolated to a sweep of {grid.cells}. Ours is a whole `sweep --jobs 1` of {grid.cells} cells of 784-30-30-10 on
Fashion-MNIST with the default probes, divided by its cells. Both run one process at a time."""
    values = {
        CUSTOMARY: np.divide(customary, ours),
        CUSTOMARY_ALL: np.divide(customary, complete),
        CUSTOMARY_CELL: customary,
        OUR_CELL: ours,
    }
    return Outcome(values, [section])


@dataclass(frozen=True)
class SweepUsage:
    """What a sweep used.

    Attributes:
        command: The whole command.
        run_seconds: From the start of its first run to the end of its last run, as the store has them.
    """

    command: Usage
    run_seconds: float


def run_sweep_command(store: str, *arguments: str) -> SweepUsage:
    """Run ``python -m pipeline sweep`` on an existing store, and read the times of its runs.

    Args:
        store: The override that selects the store.
        arguments: Other arguments of the command.
    """
    opened = Store.open(TrackingConfig(store.partition("=")[2], "gradvitals"))
    before = {run.info.run_id for run in opened.search("tags.kind = 'run'")}
    usage = pipeline_command("sweep", *arguments, store)
    runs = [run.info for run in opened.search("tags.kind = 'run'") if run.info.run_id not in before]
    milliseconds = max(run.end_time for run in runs) - min(run.start_time for run in runs)
    return SweepUsage(usage, milliseconds / 1000)


AT_INITIALISATION = ["architecture=deep", "architecture.width=10", "activation=tanh", "init=mean_field", "epochs=0"]
INITIALISATION_CELL = "time of a cell at initialisation, MLflow included"
LAST_HUNDRED = "time of 100 cells after the sweep / before it"
INITIALISATION_GOALS = (Goal(INITIALISATION_CELL, most=60.0, unit="ms"), Goal(LAST_HUNDRED, most=1.2))


def time_initialisation(quick: bool) -> Outcome:
    """Time a sweep of 1000 cells at initialisation, and 100 other cells before and after it in the same store."""
    variances, depths, seeds = (2, 2, 1) if quick else (10, 10, 10)
    swept = [
        f"init.weights.sigma_w2={_values(np.linspace(0.5, 5.0, variances))}",
        f"architecture.depth=range({2},{2 + depths})",
    ]
    with new_store() as store:
        first, whole, last = (
            run_sweep_command(store, *AT_INITIALISATION, *swept, f"seed={values}")
            for values in (str(seeds), f"range(0,{seeds})", str(seeds + 1))
        )
    cells = variances * depths * seeds
    section = f"""\
## Cells at initialisation

One `sweep` of {cells} cells: σ_w² × depth × seed of a tanh network of width 10 on the digits, `epochs=0`. A sweep of
{variances * depths} cells with another seed runs before it in the new store, and one after it. Their times are from the
start of the first run to the end of the last run: {first.run_seconds:.2f} s and {last.run_seconds:.2f} s."""
    values = {
        INITIALISATION_CELL: 1000 * whole.command.seconds / cells,
        LAST_HUNDRED: last.run_seconds / first.run_seconds,
    }
    return Outcome(values, [section])


HELP, INVALID, RUN = "`--help`", "an invalid config", "`run epochs=0`"
START_GOALS = (
    Goal(HELP, most=0.3, unit="s"),
    Goal(INVALID, most=1.5, unit="s"),
    Goal(RUN, most=3.0, unit="s"),
)


def time_start(quick: bool) -> Outcome:
    """Time commands that do little, as whole processes."""
    with new_store() as store:
        commands: Mapping[str, tuple[tuple[str, ...], int]] = {
            HELP: (("--help",), 0),
            INVALID: (("run", "optimizer.learning_rate=-1", store), EXIT_INVALID),
            RUN: (("run", "epochs=0", store), 0),
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(1 if quick else 7):
            for name, (arguments, exit_code) in commands.items():
                seconds[name].append(pipeline_command(*arguments, exit_code=exit_code).seconds)
    return Outcome(seconds)
