"""An interruption is raised until it is acknowledged, and does not disturb the closing of runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

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
signals.install(signal.SIGTERM, signal.SIGINT)
print("ready", flush=True)
{swallowing}
print("swallowed", flush=True)
try:
    time.sleep(30)
except BaseException:
    signals.acknowledge()
    print("closing", flush=True)
    time.sleep({closing})  # no more exceptions come now
    print("closed", flush=True)
    raise
"""


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
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}[number]


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
