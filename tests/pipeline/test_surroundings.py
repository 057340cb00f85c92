"""Where a command runs: its streams, its environment, its terminal, its port, and names with control characters."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
from rich.table import Table
from support.commands import invoke
from support.stores import empty, uri

from pipeline.cli import commands, main, print_lines, print_table
from pipeline.tracking.retry import notify

PROJECT = Path(__file__).resolve().parents[2]
SMOKE = ("experiment=smoke", "epochs=1", "replicates=1", "tracking.figures=false")
COMMANDS = [("--help",), ("show",), ("trace",), *((name, "--help") for name in commands.commands)]


@pytest.fixture
def no_reader() -> Iterator[TextIO]:
    """A pipe whose reader has ended, as that of ``| head`` does."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8", closefd=False) as stream:
        yield stream
    os.close(writer)


@pytest.fixture
def full_disk() -> Iterator[TextIO]:
    with suppress(OSError), Path("/dev/full").open("w", encoding="utf-8") as stream:  # closing it writes the rest
        yield stream


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_output_without_reader_is_dropped(
    argv: tuple[str, ...],
    no_reader: TextIO,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdout", no_reader)
    assert main(argv) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.thorough
def test_run_and_sweep_go_on_without_reader(
    no_reader: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"tracking.uri={empty(uri(tmp_path))}"
    monkeypatch.setattr("sys.stdout", no_reader)
    assert main(["run", *SMOKE, store]) == 0
    assert main(["sweep", "--jobs", "1", *SMOKE, store]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argv", [("show",), ("trace",), ("--help",), ("run", *SMOKE)], ids=lambda argv: argv[0])
def test_full_output_is_reported_in_one_line_when_the_work_is_done(
    argv: tuple[str, ...],
    full_disk: TextIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = [f"tracking.uri={empty(uri(tmp_path))}"] if argv[0] == "run" else []
    monkeypatch.setattr("sys.stdout", full_disk)
    assert main([*argv, *store]) == 1
    assert capsys.readouterr().err == "error: standard output: No space left on device\n"


def test_message_that_cannot_be_written_keeps_the_exit_code(full_disk: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", full_disk)
    assert main(["show", "seed=-1"]) == 2


def test_warning_of_a_process_that_cannot_be_written_is_dropped(
    full_disk: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", full_disk)
    notify("the store does not answer")


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a shell, with ``$gradvitals`` as the command."""
    known = os.environ | {"gradvitals": f"{sys.executable} -m pipeline", "PYTHONPATH": str(PROJECT), "CI": "1"}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=known | environment,
        capture_output=True,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"), [("$gradvitals trace >&-", 0), ("$gradvitals show seed=-1 2>&- <&-", 2)], ids=["stdout", "stderr"]
)
def test_closed_stream_leads_nowhere(line: str, code: int, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.thorough
def test_no_file_of_a_run_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    overrides = " ".join([*SMOKE, f"tracking.uri={uri(tmp_path)}"])
    done = shell(f"$gradvitals run {overrides} <&- >&- 2>&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert invoke("run", *overrides.split()).code == 0  # the store can be read


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("argv", [("trace",), ("run", *SMOKE, 'name="\u03b4\u2603"')], ids=lambda argv: argv[0])
def test_terminal_without_greek_letters_spells_them(
    argv: tuple[str, ...], encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = [f"tracking.uri={empty(uri(tmp_path))}"] if argv[0] == "run" else []
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main([*argv, *store]) == 0
    assert b"delta" in written.getvalue()
    assert (b"\\u2603" in written.getvalue()) == (argv[0] == "run"), "a character without a spelling is an escape"
    written.getvalue().decode(encoding)


HOSTILE_SHELL = {
    "PYTHONWARNINGS": "error",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONIOENCODING": "latin-1",
    "LC_ALL": "C",
    "COLUMNS": "80",
}


@pytest.mark.thorough
def test_sweep_in_processes_ignores_settings_of_notebook_and_shell(tmp_path: Path) -> None:
    line = f"$gradvitals sweep --jobs 2 experiment=smoke epochs=1 tracking.uri={uri(tmp_path)}"
    done = shell(line, tmp_path, **HOSTILE_SHELL)
    assert done.returncode == 0, done.stderr
    assert "2 runs: 2 trained" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no such backend"])
def test_figures_are_drawn_whatever_backend_a_notebook_chose(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MPLBACKEND", backend)
    assert main(["show"]) == 0
    code = "import matplotlib; print(matplotlib.get_backend().lower())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path) == "agg\n"


def test_warnings_as_errors_do_not_reach_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr("sys.warnoptions", ["error"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["show"]) == 0
        warnings.warn("a library is old", DeprecationWarning, stacklevel=1)
    assert "PYTHONWARNINGS" not in os.environ
    assert sys.warnoptions == []  # Python passes them to the processes that it starts


def test_port_in_use_is_refused_before_a_link_is_printed(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = invoke("ui", "--port", str(port), "--uri", empty(uri(tmp_path)))
    assert done.code == 2
    assert done.out == ""
    assert done.err == f"error: port {port}: cannot be used (Address already in use); give another\n"


ESCAPES = "\x1b[2J\x07\x9b31m\u202e\u2028\udcff"


@pytest.mark.parametrize("show", [lambda text: print_lines([text]), lambda text: print_table(table(text))])
def test_control_characters_are_replaced(show: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    show(f"a{ESCAPES}b\u00a0\u00e9")
    printed = capsys.readouterr().out
    assert not set(ESCAPES.replace("[2J", "").replace("31m", "")) & set(printed)
    assert "b\u00a0\u00e9" in printed


def table(*texts: str) -> Table:
    built = Table()
    for text in texts:
        built.add_column(text)
    built.add_row(*texts)
    return built


def test_name_with_control_characters_is_refused() -> None:
    for name in ("a\x1b[2Jb", "a\nb", "a\u202eb"):
        done = invoke("show", f'name="{name}"')
        assert done.code == 2
        assert done.err == f"error: name={name!r}: must be one line without control characters\n"


@pytest.mark.parametrize("option", [(), ("--config-dir",), ("--uri",)], ids=["key", "folder", "store"])
def test_control_characters_in_a_message_are_replaced(option: tuple[str, ...]) -> None:
    command = "ui" if option == ("--uri",) else "show"
    done = invoke(command, *option, f"sqlite:////no{ESCAPES[:-1]}/x" if command == "ui" else f"/no{ESCAPES[:-1]}=")
    assert done.code == 2
    assert done.err[:-1].isprintable()


def test_control_characters_in_file_names_are_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    folder = tmp_path / "a\x1b[2J\nb"
    (folder / "activation").mkdir(parents=True)
    (folder / "activation" / "mine.yaml").write_text("_target_: engine.activations.Relu\n")
    tables = [folder / "t\x1b[2J.csv", folder / "u\u202ev.csv"]
    for table in tables:
        table.write_text("x,y\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(60)))
    paths = ",".join(f"'{table}'" for table in tables)
    options = ["--config-dir", str(folder), "activation=mine", "data=csv", f"data.source.path={paths}"]
    store = f"tracking.uri='{empty(uri(folder))}'"
    done = invoke("sweep", *options, "data.source.target=y", "epochs=1", "tracking.figures=true", store)
    assert done.code == 0, done.err
    assert "2 runs: 2 trained" in done.out
    assert not {"\x1b", "\u202e"} & set(done.out + done.err)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_narrow_terminal_shortens_no_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"word{number:02}" + "x" * 20 for number in range(8)]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(table(*texts))
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert "\u2026" not in "".join(lines)
