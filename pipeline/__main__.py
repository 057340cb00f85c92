"""The command: ``python -m pipeline run|sweep|search|prescribe|compare|report|reproduce|diff|trace|ui|show ...``."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(
        _name, "1"
    )  # before NumPy is imported: one thread is reproducible, and fastest for small nets

from pipeline import interrupts  # noqa: E402
from pipeline.errors import ConfigError  # noqa: E402


class _Parser(argparse.ArgumentParser):
    """Tells a wrong command line as every other wrong input is told."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(prog="python -m pipeline", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, composes: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if composes:
            sub.add_argument("overrides", nargs="*", help="Hydra overrides: key=value, group=option, +key=value, ~key")
            sub.add_argument("--config-dir", metavar="DIR", help="a folder with config groups of your own")
        return sub

    run = command("run", "train and log one run; if the same was interrupted, go on with it")
    run.add_argument("--force", action="store_true", help="begin a new run, whatever was interrupted")
    swept = command("sweep", "run every combination of the swept values that is not finished yet")
    swept.add_argument("--retry", action="store_true", help="run failed cells again")
    swept.add_argument("--force", action="store_true", help="run all cells again")
    swept.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    swept.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time, a process each")
    sought = command("search", "let Optuna look for the best values of the keys that the config's search names")
    sought.add_argument("--trials", type=int, metavar="N", help="how many in all, if not as the config says")
    sought.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at a time, a process each")
    for limited in (run, swept, sought):
        limited.add_argument("--time-limit", type=float, metavar="S", help="seconds a run may take")
        limited.add_argument("--memory-limit", type=float, metavar="GIB", help="memory a run may take, in GiB")
        limited.add_argument("--hang-limit", type=float, metavar="S", default=900.0, help="seconds without a step")

    def stored(sub: argparse.ArgumentParser, trusting: bool = False) -> None:
        sub.add_argument("--uri", help="the MLflow tracking URI, if not the project's own store")
        if trusting:
            sub.add_argument(
                "--allow", metavar="PACKAGE", action="append", default=[], help="trust a package of your own"
            )

    def run_or_sweep(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--run", help="run id, or its first 8 or more characters")
        sub.add_argument("--sweep", help="sweep id, as the sweep printed it")

    def folder(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--from", dest="folder", required=True, help="a folder that export wrote")
        sub.add_argument("--seal", help="the seal that export printed, learnt elsewhere than from the folder")

    command("show", "print the composed config, resolved")
    command("trace", "print a small network's forward and backward pass step by step; by default the worked examples")
    one = command("experiment", "run a published result's experiment and print its claims")
    one.add_argument("--name", required=True, help="a folder of experiments/, or the path of one of your own")
    one.add_argument("--slow", action="store_true", help="the slow variants too")
    every = command("experiments", "run all experiments and write the catalogue in docs/experiments")
    every.add_argument("--slow", action="store_true", help="the slow variants too")
    again = command("reproduce", "train a logged run again and compare its chain and every record", composes=False)
    again.add_argument("run_id", help="the MLflow run id, its first 8 or more characters, or an exported folder")
    again.add_argument("changes", nargs="*", help="key=value: change the logged config first")
    stored(again, trusting=True)
    again.add_argument("--as-it-is", action="store_true", help="leave core type and CPU features as they are here")
    again.add_argument("--patch", action="store_true", help="only print the uncommitted changes it was recorded with")
    differ = command("diff", "where two logged runs part, and how their difference grows", composes=False)
    differ.add_argument("a", help="run id of A, its first 8 or more characters, or an exported folder")
    differ.add_argument("b", help="the same of B")
    differ.add_argument("--to", type=Path, help="a picture of the growth to write, .png")
    stored(differ)
    cure = command("prescribe", "try remedies for a logged run's verdict, paired over the same seeds", composes=False)
    cure.add_argument("run_id", help="the MLflow run id, or its first 8 or more characters")
    stored(cure, trusting=True)
    pair = command("compare", "how two logged runs differ, and how sure that is", composes=False)
    pair.add_argument("a", help="run id of A, or its first 8 or more characters")
    pair.add_argument("b", help="run id of B")
    pair.add_argument("--precision", type=float, help="half width of the interval to plan replicates for")
    stored(pair)
    page = command("report", "write one self-contained HTML page about a run or a sweep", composes=False)
    run_or_sweep(page)
    page.add_argument("--to", type=Path, help="the file to write (default: report-<id>.html here)")
    stored(page)
    out = command("export", "write a run or a sweep as a plain folder that can be verified anywhere", composes=False)
    run_or_sweep(out)
    out.add_argument("--to", required=True, help="the folder to write, which must not exist yet or be empty")
    stored(out)
    proof = command("verify", "check that an exported folder is as it was written", composes=False)
    folder(proof)
    into = command("import", "make the runs of an exported folder in the store", composes=False)
    folder(into)
    stored(into)
    serve = command("ui", "serve the MLflow UI of the project's store on loopback", composes=False)
    serve.add_argument("--port", type=int, default=5000)
    stored(serve)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 fine, 1 failed or different, 2 wrong input)."""
    interrupts.install(signal.SIGTERM, signal.SIGINT)
    try:
        return dispatch(parser().parse_args(argv))
    except ConfigError as wrong:
        print(f"error: {_printable(str(wrong))}", file=sys.stderr)
        return 2
    except OSError as refused:
        if refused.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(f"error: {_printable(f'{refused.filename}: {refused.strerror}')}", file=sys.stderr)
        return 1
    except SystemExit:
        interrupts.heard()
        raise
    except KeyboardInterrupt:
        interrupts.heard()
        print("interrupted", file=sys.stderr)
        return 130


def _printable(text: str) -> str:
    """One line, in which nothing that came from elsewhere can tell the terminal what to do."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def dispatch(arguments: argparse.Namespace) -> int:
    """Hand over to the module that does it; each is imported only when needed, for mlflow takes seconds."""
    from rich.console import Console

    from pipeline.address import TrackingConfig

    quiet = bool(os.environ.get("CI"))
    console = Console(width=None if sys.stdout.isatty() else 160)
    tracking = TrackingConfig(getattr(arguments, "uri", None), "gradvitals")  # of commands that read what is there
    match arguments.command:
        case "run":
            from pipeline.single import single

            limits = _limits(arguments)
            return single(arguments.overrides, arguments.config_dir, quiet, console, arguments.force, limits)
        case "sweep":
            from pipeline.sweep import Options, sweep

            limits = _limits(arguments)
            a = arguments
            options = Options(a.retry, a.force, a.fail_fast, a.jobs, limits)
            return sweep(a.overrides, a.config_dir, quiet, console, options)
        case "search":
            from pipeline.search import Options as SearchOptions
            from pipeline.search import search

            a = arguments
            chosen = SearchOptions(a.trials, a.jobs, _limits(a))
            return search(a.overrides, a.config_dir, quiet, console, chosen)
        case "show":
            from pipeline.single import show

            return show(arguments.overrides, arguments.config_dir)
        case "trace":
            from pipeline.trace import trace

            return trace(arguments.overrides, arguments.config_dir, console)
        case "experiment":
            from pipeline.experiment import experiment

            return experiment(arguments.name, arguments.overrides, arguments.slow, quiet, console)
        case "experiments":
            from pipeline.experiment import experiments

            return experiments(arguments.overrides, arguments.slow, quiet, console)
        case "reproduce":
            from pipeline.reproduce import patch, reproduce

            if arguments.patch:
                return patch(arguments.run_id, tracking)
            trusted, as_it_is = arguments.allow, arguments.as_it_is
            return reproduce(arguments.run_id, arguments.changes, tracking, trusted, quiet, console, as_it_is)
        case "diff":
            from pipeline.diff import diff

            return diff(arguments.a, arguments.b, tracking, arguments.to, console)
        case "prescribe":
            from pipeline.prescribe import prescribe

            return prescribe(arguments.run_id, tracking, arguments.allow, quiet, console)
        case "compare":
            from pipeline.compare import compare

            return compare(arguments.a, arguments.b, arguments.precision, tracking, console)
        case "report":
            from pipeline.report import report

            return report(arguments.run, arguments.sweep, tracking, arguments.to, console)
        case "export":
            from pipeline.exchange.export import export

            return export(arguments.run, arguments.sweep, arguments.to, tracking, console)
        case "verify":
            from pipeline.exchange.checking import command as check_folder

            return check_folder(arguments.folder, arguments.seal, console)
        case "import":
            from pipeline.exchange.imports import command as import_folder

            return import_folder(arguments.folder, arguments.seal, tracking, console)
        case _:
            from pipeline.ui import serve

            return serve(arguments.uri, arguments.port)


def _limits(arguments: argparse.Namespace) -> Any:
    from pipeline.limits import Limits

    try:
        return Limits(arguments.time_limit, arguments.memory_limit, arguments.hang_limit)
    except ValueError as wrong:
        raise ConfigError(str(wrong)) from wrong


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())
