"""An interruption is heard even where its exception is swallowed, and once only."""

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
    time.sleep(2.5)  # no more exceptions come now
    print("closed", flush=True)
    raise
"""


@pytest.mark.parametrize(
    "swallowing",
    [
        pytest.param(SWALLOWED, marks=pytest.mark.thorough, id="by a bare except"),
        pytest.param(IN_A_FINALISER, id="in a finaliser"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_swallowed_exception_comes_again_and_the_closing_is_not_disturbed(
    swallowing: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(swallowing=swallowing)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's child would ignore it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(number)
    assert process.stdout.readline() == "swallowed\n"
    assert process.stdout.readline() == "closing\n"
    process.send_signal(number)  # a second one, as make or a terminal may send
    out, err = process.communicate(timeout=20)
    assert out == "closed\n"
    assert "ignored" not in err
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}[number]
