"""An interruption is raised until it is acknowledged, and does not disturb the closing of runs."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from support.configs import require

from pipeline import signals
from pipeline.paths import PROJECT

SWALLOWED = """
try:
    while True:
        time.sleep(0.01)
except:  # as some libraries do
    pass
"""
IN_A_FINALISER = """
class Slow:
    def __del__(self):
        time.sleep(1)  # Python ignores what is raised here
Slow()
"""
CODE = """
import signal, sys, time
from pipeline import signals
signals.install(signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
print("ready", flush=True)
{swallowing}
try:
    print("swallowed", flush=True)
    time.sleep(30)
except BaseException:
    signals.acknowledge()
    print("closing", flush=True)
    time.sleep({closing})  # no more exceptions come now
    print("closed", flush=True)
    raise
"""


SCRIPT = Path(sys.executable).with_name("gradvitals")


def thorough(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.thorough)


def started(swallowing: str, closing: float) -> subprocess.Popen[str]:
    """Start a program that swallows the first exception and takes its time to close."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(swallowing=swallowing, closing=closing)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's child would ignore it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    "swallowing",
    [
        pytest.param(SWALLOWED, marks=pytest.mark.thorough, id="by a bare except"),
        pytest.param(IN_A_FINALISER, id="in a finaliser"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, thorough(signal.SIGHUP), signal.SIGINT])
@pytest.mark.thorough
def test_signal_is_raised_again_if_swallowed_and_does_not_disturb_closing(
    swallowing: str, number: signal.Signals
) -> None:
    process = started(swallowing, closing=2.5)
    assert process.stdout is not None
    time.sleep(0.3)
    process.send_signal(number)
    assert process.stdout.readline() == "swallowed\n"
    assert process.stdout.readline() == "closing\n"
    process.send_signal(number)  # a second one, as make or a terminal may send
    out, err = process.communicate(timeout=20)
    assert out == "closed\n"
    assert "ignored" not in err
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: -signal.SIGINT}[number]


def test_signal_in_a_delayed_block_is_raised_after_it() -> None:
    done = []

    def block() -> None:
        with signals.delayed():
            signal.raise_signal(signal.SIGTERM)
            done.append("the block")
        done.append("after it")

    signals.install(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            block()
        signals.acknowledge()
    finally:
        signals.install()
        signals.restore()
    assert (ended.value.code, done) == (128 + signal.SIGTERM, ["the block"])


def test_second_ctrl_c_leaves_at_once() -> None:
    process = started("", closing=60)
    assert process.stdout is not None
    assert process.stdout.readline() == "swallowed\n"
    time.sleep(0.5)  # until it sleeps, too
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    time.sleep(1.3)
    process.send_signal(signal.SIGTERM)  # disturbs nothing
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("", 130)


def test_closed_terminal_does_not_disturb_closing(tmp_path: Path) -> None:
    """What is printed while runs are closed cannot be written any more."""
    done = tmp_path / "done"
    code = CODE.format(swallowing="", closing=0.1).replace(
        "    raise\n", f"    open({str(done)!r}, 'w').close()\n    raise\n"
    )
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    printed = b""
    while b"swallowed\r\n" not in printed:  # the whole line, or its rest fails
        printed += os.read(ours, 1000)
    os.close(ours)  # the kernel sends SIGHUP
    assert process.wait(timeout=20) == 129
    assert done.exists()


@pytest.mark.parametrize("program", ["-m pipeline", thorough("-m experiments"), thorough("gradvitals")])
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGINT, "interrupted\n"),
        thorough(signal.SIGTERM, ""),
        thorough(signal.SIGHUP, ""),
    ],
)
def test_signal_while_python_imports_leaves_without_a_traceback(
    tmp_path: Path, program: str, number: signal.Signals, message: str
) -> None:
    """The first library that the command line imports is replaced by one that sends the signal."""
    (tmp_path / "click.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(9)\n")
    command = [sys.executable, *program.split()] if program.startswith("-m") else [str(SCRIPT)]
    require(Path(command[0]).is_file(), "the console script: pip install -e .")
    done = subprocess.run(
        [*command, "--help"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's child would ignore it
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", message)


@pytest.mark.thorough
def test_ctrl_c_in_generated_code_ends_with_130(tmp_path: Path) -> None:
    """Python ends itself with the signal if Ctrl-C came in an exec, as of dataclasses, however it was handled."""
    (tmp_path / "own.py").write_text("import os, signal\nexec('os.kill(os.getpid(), signal.SIGINT)')\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "+probes.own._target_=own.x", "tracking.uri=sqlite:///none.db"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.split() == ["interrupted"]
