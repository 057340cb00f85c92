"""The command line: one function for each command. Results and messages are printed here.

Two things reach stderr from elsewhere: progress bars (``pipeline/progress.py``), and warnings about the store
(``pipeline/tracking/retry.py``), which appear in every process.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline.threads import choose_one_thread

choose_one_thread()  # before NumPy is imported

import click  # noqa: E402
from click.shell_completion import CompletionItem  # noqa: E402

from pipeline import signals, streams  # noqa: E402
from pipeline.errors import ConfigError  # noqa: E402
from pipeline.paths import CONF  # noqa: E402
from pipeline.wording import command  # noqa: E402

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipeline.runs.limits import Limits
    from pipeline.tracking.uri import TrackingConfig

HYDRA_OPTIONS = {  # of Hydra's own command line, and what to write instead
    **dict.fromkeys(("-m", "--multirun"), f"a sweep is a command of its own: {command('sweep KEY=A,B')}"),
    "-c": f"{command('show')} prints the composed config, experiment=NAME chooses one",
    **dict.fromkeys(
        ("--cfg", "--info", "-i", "--resolve", "--package", "-p"), f"{command('show')} prints the composed config"
    ),
    "--config-name": "write experiment=NAME",
    "--config-path": "write --config-dir DIR",
    "--hydra-help": "write --help",
    **dict.fromkeys(("--run", "-r"), f"a run is a command of its own: {command('run KEY=VALUE')}"),
    "--experimental-rerun": f"write {command('reproduce', run='<id>')}",
}
SWEPT, SEARCHED = "depth", "search_tanh"  # the experiments of a sweep and a search that name none
F = TypeVar("F", bound=Callable[..., Any])
atexit.register(gc.freeze)  # or Python searches all libraries for garbage while it ends


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of gradvitals and return its exit code."""
    script = Path(sys.argv[0]).name == "gradvitals"
    return execute(commands, argv, "gradvitals" if script else "python -m pipeline")


def execute(command: click.Command, argv: Sequence[str] | None, program: str) -> int:
    """Run a command and return its exit code.

    Returns:
        0 for success, 1 for a failure or a difference, 2 for invalid input, 130 for Ctrl-C. SIGTERM and SIGHUP raise
        SystemExit with 143 and 129.
    """
    signals.install(signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    _ignore_surroundings()
    _print_messages()
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # packages of the user's own
    with streams.guarded() as output:
        code = _run(command, argv, program)
        output.flush()
        if output.is_full and not code:
            code = _refuse(f"standard output: {output.error and output.error.strerror}", 1)
        return code


def _run(command: click.Command, argv: Sequence[str] | None, program: str) -> int:
    try:
        return int(command.main(argv, program, standalone_mode=False) or 0)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.NoSuchOption as wrong:
        context = wrong.ctx
        composes_config = context is not None and any(p.name == "overrides" for p in context.command.params)
        if composes_config and (instead := HYDRA_OPTIONS.get(wrong.option_name)):
            return _refuse(f"{wrong.option_name}: no such option; {instead}", 2)
        return _refuse(f"{wrong.format_message()} (see {context.command_path if context else program} --help)", 2)
    except click.ClickException as wrong:
        context = getattr(wrong, "ctx", None)
        return _refuse(f"{wrong.format_message()} (see {context.command_path if context else program} --help)", 2)
    except ConfigError as wrong:
        return _refuse(str(wrong), 2)
    except MemoryError as full:
        return _refuse(f"the memory does not suffice ({full}); choose smaller data or a smaller network", 2)
    except OSError as refused:
        if refused.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return _refuse(f"{str(refused.filename)[:80]}: {refused.strerror}", 2)
        if refused.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return _refuse(f"{refused.filename}: {refused.strerror}", 1)
    except SystemExit:
        signals.acknowledge()
        raise
    except (KeyboardInterrupt, click.Abort):
        signals.acknowledge()
        print("interrupted", file=sys.stderr)
        exec("")  # noqa: S102 (resets a flag: Python would end with the signal if it came in an exec, as of dataclasses)
        return 130
    finally:
        signals.restore()


class _Printer(logging.Handler):
    """Prints the messages that long commands log for their user, as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        print(streams.printable(record.getMessage()), flush=True)


def _ignore_surroundings() -> None:
    """Ignore settings of a notebook or a shell that libraries obey: a drawing window, warnings that are errors.

    Processes that this one starts inherit the change.
    """
    os.environ["MPLBACKEND"] = "agg"
    if any("error" in option for option in sys.warnoptions):
        os.environ.pop("PYTHONWARNINGS", None)
        sys.warnoptions.clear()
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # as Python does by default


def _print_messages() -> None:
    messages = logging.getLogger("gradvitals.user")
    messages.setLevel(logging.INFO)
    if not any(isinstance(h, _Printer) for h in messages.handlers):
        messages.addHandler(_Printer())


class Result(Protocol):
    """What a command returns to be shown."""

    def lines(self) -> Sequence[str]:
        """Return plain lines of text."""


def show(result: Result) -> int:
    """Print a result: its table, if it has one, and its lines, whole and without markup. Return its exit code."""
    table = getattr(result, "table", None)
    if table is not None and (drawn := table()) is not None:
        print_table(drawn)
    print_lines(result.lines())
    return int(getattr(result, "exit_code", 0))


def print_table(table: Table) -> None:
    """Print a table. A narrow terminal wraps its texts, it shortens none."""
    for column in table.columns:
        column.overflow = "fold"
    console().print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, each whole and without markup."""
    output = console()
    for line in lines:
        output.print(streams.printable(line), markup=False, highlight=False, soft_wrap=True)


def _refuse(text: str, code: int) -> int:
    """Print one line without control characters: parts of it may come from a file or a server."""
    print(f"error: {streams.printable(' '.join(text.split()))}", file=sys.stderr)
    return code


START = """\b
Start with:
  gradvitals run                             one network, in seconds
  gradvitals sweep                           twelve, in about a minute
  gradvitals sweep activation=relu,tanh optimizer.learning_rate=0.1,0.3

\b
Tab completes commands, groups and options after:
  eval "$(_GRADVITALS_COMPLETE=bash_source gradvitals)"
  (or zsh_source, fish_source)"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True, epilog=START)
@click.pass_context
def commands(context: click.Context) -> None:
    """Measure gradient flow layer by layer, explain it, and reproduce a run bit for bit."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def usage(time: str, *examples: str) -> str:
    """Return the end of a command's help: how long it takes, and examples."""
    return "\n".join([f"Takes {time}.", "", "\b", "Example:", *(f"  gradvitals {example}" for example in examples)])


def console() -> Console:
    """Return the console that results are printed to."""
    from pipeline.progress import plain_console

    return plain_console(width=None if sys.stdout.isatty() else 160)


def quiet() -> bool:
    """Return whether progress bars are off."""
    return bool(os.environ.get("CI"))


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete ``group=option`` from the files in conf/ and in the folder of ``--config-dir``.

    Bash passes "activation", "=" and "si" for activation=si, and replaces the last of them.
    """
    given = list(context.params.get("overrides") or ())
    own = context.params.get("config_dir")
    folders = [CONF, *([Path(own).expanduser()] if own else [])]
    groups = {path.name for folder in folders for path in folder.glob("*") if any(path.glob("*.yaml"))}
    word = incomplete
    while given and (given[-1] in ("=", "@") or word[:1] in ("=", "@")):
        word = given.pop() + word
    if not incomplete and given and given[-1].partition("@")[0] in groups:  # the cursor is after the "="
        word = f"{given[-1]}="
    done = len(word) - len(incomplete)
    if "=" not in word:
        names = [name for name in sorted(groups) if name.startswith(word)]
        if len(names) != 1:
            return [CompletionItem(f"{name}="[done:]) for name in names]
        word = f"{names[0]}="
    key, _, start = word.partition("=")
    files = {path.stem for folder in folders for path in (folder / key.partition("@")[0]).glob("*.yaml")}
    return [CompletionItem(f"{key}={name}"[done:]) for name in sorted(files) if name.startswith(start)]


def _complete_folder(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


def composes(function: F) -> F:
    """Add the arguments of a command that composes a config."""
    text = "A folder with config groups of your own."
    function = click.option("--config-dir", shell_complete=_complete_folder, metavar="DIR", help=text)(function)
    return click.argument("overrides", nargs=-1, shell_complete=_complete, metavar="[KEY=VALUE]...")(function)


def limits(function: F) -> F:
    """Add the limits of a run."""
    for option in (
        click.option("--hang-limit", type=float, metavar="S", default=900.0, help="Seconds without a step."),
        click.option("--memory-limit", type=float, metavar="GIB", help="Memory that a run may use, in GiB."),
        click.option("--time-limit", type=float, metavar="S", help="Seconds that a run may take."),
    ):
        function = option(function)
    return function


def stored(function: F) -> F:
    """Add the address of the store."""
    return click.option("--uri", help="The MLflow tracking URI, if not the project's own store.")(function)


def trusting(function: F) -> F:
    """Add the packages that a logged config may import."""
    return click.option("--allow", metavar="PACKAGE", multiple=True, help="Trust a package of your own.")(function)


def replacing(function: F) -> F:
    """Add the choice to replace a file of another origin."""
    return click.option("--force", is_flag=True, help="Replace a file that gradvitals did not write.")(function)


def run_or_sweep(function: F) -> F:
    """Add the choice between a run and a sweep."""
    function = click.option("--sweep", "sweep_id", help="The sweep id that the sweep printed.")(function)
    return click.option("--run", "run_id", help="The run id, or its first 8 or more characters.")(function)


def folder(function: F) -> F:
    """Add an exported folder."""
    function = click.option("--seal", help="The seal that export printed.")(function)
    return click.option("--from", "folder", required=True, help="A folder that export wrote.")(function)


def _limits(time_limit: float | None, memory_limit: float | None, hang_limit: float) -> Limits:
    from pipeline.runs.limits import Limits

    try:
        return Limits(time_limit, memory_limit, hang_limit)
    except ValueError as wrong:
        raise ConfigError(str(wrong)) from wrong


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tracking(uri: str | None) -> TrackingConfig:
    from pipeline.tracking.uri import TrackingConfig

    tracking = TrackingConfig(uri, None)
    print_lines(tracking.environment_lines)
    return tracking


@commands.command(epilog=usage("seconds", "run architecture=deep activation=relu"))
@composes
@click.option("--force", is_flag=True, help="Start a new run, even if one was interrupted.")
@limits
def run(overrides: Sequence[str], config_dir: str | None, force: bool, **limit: Any) -> int:
    """Train and log one run. Resume it if it was interrupted."""
    from pipeline.sweeps.sweep import SweepOptions, run_single

    return show(run_single(overrides, SweepOptions(force=force, limits=_limits(**limit), quiet=quiet()), config_dir))


@commands.command(epilog=usage("about a minute by default (60 networks)", "sweep activation=relu,tanh seed=0,1"))
@composes
@click.option("--retry", is_flag=True, help="Run failed cells again.")
@click.option("--force", is_flag=True, help="Run all cells again.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failure.")
@click.option("--jobs", type=int, metavar="N", help="Processes at a time; by default the number of cores.")
@click.option("--no-stacks", is_flag=True, help="Train each cell alone, even if others have the same shapes.")
@click.option("--detach", is_flag=True, help="executor=slurm: Ctrl-C lets the tasks go on, without asking.")
@click.option("--cancel", is_flag=True, help="executor=slurm: Ctrl-C and SIGTERM cancel the tasks, without asking.")
@limits
def sweep(
    overrides: Sequence[str],
    config_dir: str | None,
    jobs: int | None,
    no_stacks: bool,
    detach: bool,
    cancel: bool,
    **options: Any,
) -> int:
    """Run all combinations of the swept values. Finished ones are skipped.

    Without swept values, and without experiment=, they are those of the experiment depth.
    """
    from pipeline.config.compose import is_a_sweep
    from pipeline.sweeps.slurm.executor import Leaving
    from pipeline.sweeps.sweep import SweepOptions, run_sweep

    if detach and cancel:
        raise ConfigError("--detach --cancel: give one of them")
    if not is_a_sweep(overrides):
        overrides = [f"experiment={SWEPT}", *overrides]
    choices = {name: options.pop(name) for name in ("retry", "force", "fail_fast")}
    limits = _limits(**options)
    leaving = Leaving(cancel if detach or cancel else None, _asks_whether_to_cancel)
    chosen = SweepOptions(
        **choices,
        jobs=cores() if jobs is None else jobs,
        is_stacked=not no_stacks,
        limits=limits,
        quiet=quiet(),
        leaving=leaving,
    )
    return show(run_sweep(overrides, chosen, config_dir))


def _asks_whether_to_cancel() -> bool:
    """Ask after Ctrl-C whether Slurm's tasks are cancelled. Without a terminal, or without an answer, they go on."""
    if not sys.stdin.isatty():
        return False
    try:
        return click.confirm("\nCancel the tasks in Slurm's queue? Otherwise they go on", default=False, err=True)
    except click.Abort:
        return False


@commands.command(epilog=usage("minutes", "search experiment=search_tanh --trials 20"))
@composes
@click.option("--trials", type=int, metavar="N", help="Number of trials in all, if not as in the config.")
@click.option("--jobs", type=int, default=1, metavar="N", help="Trials at a time, each in its own process.")
@limits
def search(overrides: Sequence[str], config_dir: str | None, trials: int | None, jobs: int, **limit: Any) -> int:
    """Let Optuna search the space of a config. Without experiment= or search= it is that of search_tanh."""
    from pipeline.sweeps.search.search import SearchOptions, run_search

    if not any(text.lstrip("+").startswith(("experiment=", "search")) for text in overrides):
        overrides = [f"experiment={SEARCHED}", *overrides]
    return show(run_search(overrides, SearchOptions(trials, jobs, _limits(**limit), quiet()), config_dir))


@commands.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    epilog=usage("as long as the command", "profile sweep experiment=smoke"),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND [ARGUMENT]...")
def profile(arguments: Sequence[str]) -> int:
    """Run a command, and print where its time went."""
    from pipeline.profiling import PROFILE

    if arguments and arguments[0] in ("-h", "--help"):
        print_lines([click.get_current_context().get_help()])
        return 0
    if not arguments or arguments[0] not in commands.commands:
        problem = f"COMMAND={arguments[0]}: no such command" if arguments else "COMMAND is missing"
        raise ConfigError(f"{problem}; allowed: {', '.join(sorted(commands.commands))}")
    code = main(arguments)
    print_table(PROFILE.table())
    return code


@commands.command("show", epilog=usage("a second", "show experiment=depth"))
@composes
def show_config(overrides: Sequence[str], config_dir: str | None) -> int:
    """Print the composed config."""
    import yaml

    from pipeline.config.compose import compose_run
    from pipeline.config.schema import build

    raw_config = compose_run(overrides, config_dir)
    build(raw_config)
    yaml.safe_dump(raw_config, sys.stdout, sort_keys=False)
    return 0


@commands.command(epilog=usage("a second or two", "data data=csv data.source.path=my.csv data.source.target=species"))
@composes
def data(overrides: Sequence[str], config_dir: str | None) -> int:
    """Print what a run would read: rows, columns and classes."""
    from pipeline.config.compose import compose_run
    from pipeline.config.schema import build
    from pipeline.training.prepare import load_facts

    config = build(compose_run(overrides, config_dir))
    facts = load_facts(config.data, config.seed, config.replicates, config.dtype)
    print_lines(facts.description.lines() if facts.description is not None else [])
    return 0


@commands.command(epilog=usage("a second", "trace experiment=worked_example_1"))
@composes
def trace(overrides: Sequence[str], config_dir: str | None) -> int:
    """Print a forward and backward pass step by step. By default those of the worked examples."""
    from rich.text import Text

    from pipeline.reports.trace import trace as trace_config

    for traced in trace_config(overrides, config_dir):
        console().rule(Text(traced.title, style="bold"))
        print_lines(traced.lines())
    return 0


@commands.command(epilog=usage("as long as the run did", "reproduce 1f3a5b7c"))
@click.argument("run_id")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@stored
@trusting
@click.option("--as-it-is", is_flag=True, help="Keep this machine's core type and CPU features.")
@click.option("--patch", is_flag=True, help="Only print the uncommitted changes of the run's code.")
def reproduce(
    run_id: str, changes: Sequence[str], uri: str | None, allow: Sequence[str], as_it_is: bool, patch: bool
) -> int:
    """Train a logged run or an exported folder again and compare. The hash chain and every record must be equal."""
    from pipeline.reproducibility.replay import ReplayOptions, recorded_patch
    from pipeline.reproducibility.replay import reproduce as replay
    from pipeline.tracking.uri import TrackingConfig

    if patch:
        if isinstance(sys.__stdout__, io.TextIOWrapper):
            sys.__stdout__.reconfigure(encoding="utf-8")  # unchanged, for git apply
        sys.stdout.write(recorded_patch(run_id, TrackingConfig(uri, None)))
        return 0
    return show(replay(run_id, changes, _tracking(uri), ReplayOptions(allow, match_machine=not as_it_is), quiet()))


@commands.command(epilog=usage("seconds", "diff 1f3a5b7c 2e4d6c8b --to growth.png"))
@click.argument("a")
@click.argument("b")
@click.option("--to", type=click.Path(path_type=Path), help="The figure of the growth to write, .png.")
@replacing
@stored
def diff(a: str, b: str, to: Path | None, force: bool, uri: str | None) -> int:
    """Show the first difference between two logged runs. Show how it grows."""
    from pipeline.reproducibility.diff import diff as diff_runs

    result = diff_runs(a, b, _tracking(uri), to, force)
    print_lines(result.lines())
    table = result.table()
    if table is not None:
        print_table(table)
    print_lines(result.growth_lines())
    return result.exit_code


@commands.command(epilog=usage("seconds", "diagnose measurements.parquet --name mine"))
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--name", default="", help="The name of the run (default: that of the file).")
@click.option("--no-track", is_flag=True, help="Log nothing.")
@stored
def diagnose(table: Path, name: str, no_track: bool, uri: str | None) -> int:
    """Judge a network that was trained elsewhere. It reads a table of δ and gradients (docs/how-to/python.md)."""
    from pipeline.sweeps.diagnosis import diagnose as judge_table
    from pipeline.sweeps.diagnosis import read_table

    return show(judge_table(read_table(table), name or table.stem, None if no_track else _tracking(uri)))


@commands.command(epilog=usage("about as long as 5 such runs for each remedy", "prescribe 1f3a5b7c"))
@click.argument("run_id")
@stored
@trusting
def prescribe(run_id: str, uri: str | None, allow: Sequence[str]) -> int:
    """Try remedies for a logged run's verdict. Pairs are compared over the same seeds."""
    from pipeline.sweeps.remedy_trials import prescribe as try_remedies

    return show(try_remedies(run_id, _tracking(uri), allow, quiet()))


@commands.command(epilog=usage("seconds", "compare 1f3a5b7c 2e4d6c8b"))
@click.argument("a")
@click.argument("b")
@click.option("--precision", type=float, help="Half width of the interval to plan replicates for.")
@stored
def compare(a: str, b: str, precision: float | None, uri: str | None) -> int:
    """Show how two logged runs differ, and how certain that is."""
    from pipeline.reports.comparison import compare as compare_runs

    result = compare_runs(a, b, precision, _tracking(uri))
    print_lines(result.lines())
    print_table(result.table())
    print_lines(result.conclusions())
    return 0


@commands.command(epilog=usage("about ten seconds", "report --run 1f3a5b7c --to page.html"))
@run_or_sweep
@click.option("--to", type=click.Path(path_type=Path), help="The file to write (default: report-<id>.html here).")
@replacing
@stored
def report(run_id: str | None, sweep_id: str | None, to: Path | None, force: bool, uri: str | None) -> int:
    """Write one self-contained HTML page about a run or a sweep."""
    from pipeline.reports.run_report import report as write_report

    print_lines([str(write_report(run_id, sweep_id, _tracking(uri), to, force))])
    return 0


@commands.command(epilog=usage("seconds", "export --run 1f3a5b7c --to folder"))
@run_or_sweep
@click.option("--to", required=True, help="The folder to write. It must be empty or not exist.")
@stored
def export(run_id: str | None, sweep_id: str | None, to: str, uri: str | None) -> int:
    """Write a run or a sweep as a plain folder. It can be verified anywhere."""
    from pipeline.reproducibility.exchange.export import export as write_folder

    return show(write_folder(run_id, sweep_id, to, _tracking(uri)))


@commands.command(epilog=usage("a second or two", "verify --from folder"))
@folder
def verify(folder: str, seal: str | None) -> int:
    """Check that an exported folder is unchanged."""
    from pipeline.reproducibility.exchange.checking import verify as verify_folder

    return show(verify_folder(folder, seal))


@commands.command("import", epilog=usage("seconds", "import --from folder"))
@folder
@stored
def import_(folder: str, seal: str | None, uri: str | None) -> int:
    """Verify an exported folder and create its runs in the store."""
    from pipeline.reproducibility.exchange.imports import import_folder

    return show(import_folder(folder, seal, _tracking(uri)))


@commands.command(
    epilog=usage(
        "seconds to start; Ctrl-C ends it",
        "server",
        "server --host 0.0.0.0 --auth --uri postgresql+psycopg://me@db/run",
    )
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at; 0.0.0.0 for all.")
@click.option("--port", type=int, default=5000, show_default=True)
@click.option("--auth/--no-auth", default=None, help="Ask for a user and a password; needed off loopback.")
@click.option("--allowed-hosts", metavar="NAMES", default="", help="More names of this machine that clients use.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to keep artifacts, the secret and the users.")
@click.option("--uri", help="The database (default: MLFLOW_BACKEND_STORE_URI, or a SQLite file of its own).")
def server(uri: str | None, **options: Any) -> int:
    """Start an MLflow tracking server that several machines share."""
    from pipeline.tracking.server import prepare_tracking_server

    prepared = prepare_tracking_server(uri, **options)
    print_lines(prepared.lines())
    prepared.serve()


@commands.command(epilog=usage("seconds to start; Ctrl-C ends it", "ui --port 5001"))
@click.option("--port", type=int, default=5000, show_default=True)
@stored
def ui(port: int, uri: str | None) -> int:
    """Serve the MLflow UI of the project's store on loopback."""
    from pipeline.tracking.ui import prepare_server

    server = prepare_server(uri, port)
    print_lines(server.lines())
    server.serve()
