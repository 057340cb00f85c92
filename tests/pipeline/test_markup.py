"""Text that was not written in the code is printed as it is: it may look like markup of the terminal's library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import invoke
from support.stores import empty, uri

CLOSING, OPENING = "[/closes] :bug:", "[bold]opens"  # the first is an error in markup, the second would be eaten
PROBE = """
import numpy as np

def says(layer, text):
    raise ValueError(text)
"""
EXPERIMENT = f"""# @package _global_
defaults:
  - override /architecture: deep
  - override /probes: essential
name: "{CLOSING}"
epochs: 1
replicates: 2
data:
  subset: 100
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, with markup in its path, that holds a config of the user's own; bars are shown."""
    folder = tmp_path / "[red]mine"
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "own.yaml").write_text(EXPERIMENT)
    (folder / "loudprobe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "300")
    yield folder
    sys.modules.pop("loudprobe", None)


def test_name_and_path_with_square_brackets_are_printed_whole(folder: Path) -> None:
    done = invoke("run", "experiment=own", "--config-dir", str(folder / "conf"), f"tracking.uri='{empty(uri(folder))}'")
    assert done.code == 0, done.err
    assert CLOSING in done.out
    assert str(folder) in done.out


def test_error_and_swept_value_with_square_brackets_do_not_end_the_sweep(folder: Path) -> None:
    probe = ["+probes.own._target_=loudprobe.says", "+probes.own._partial_=true"]
    texts = f"+probes.own.text='{OPENING}','{CLOSING}'"
    done = invoke(
        "sweep",
        "experiment=own",
        "--config-dir",
        str(folder / "conf"),
        *probe,
        texts,
        f"tracking.uri='{empty(uri(folder))}'",
    )
    assert done.code == 1, done.err
    for text in (OPENING, CLOSING):
        assert f"ValueError: {text}" in done.out
        assert f"\n'{text}' " in done.out, "the table has the swept value"
    assert "━" in done.err, "bars are shown"
    assert "2 runs: 2 trained" in done.out
