"""``python -m tools.costs``: run each command once in a store of its own, and write docs/reference/costs.md.

Seconds are processor time, so load from elsewhere does not count. It takes some minutes.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.cli import cores
from pipeline.paths import PROJECT
from tools.docstrings import table

PAGE = PROJECT / "docs" / "reference" / "costs.md"
SWEPT = "sweep --jobs 1 activation=sigmoid,relu architecture.depth=5,20 replicates=5"
COMMANDS = (  # RUN and OTHER are the ids of the first two runs, SWEEP that of the last sweep
    "show",
    "data",
    "trace",
    "run",
    "run architecture=deep architecture.depth=20 replicates=5",
    "run probes=full",
    "run data=diabetes cost=half_squared_error activation@output=identity",
    "sweep --jobs 1",
    SWEPT,
    "search --trials 10",
    "experiment chain --jobs 1",
    "report --run RUN --to run.html",
    "report --sweep SWEEP --to sweep.html",
    "compare RUN OTHER",
    "diff RUN OTHER",
    "reproduce RUN",
    "prescribe OTHER",
    "export --run RUN --to run",
    "verify --from run",
    "import --from run",
)
NOT_COMPOSING = ("report", "compare", "diff", "reproduce", "prescribe", "export", "import")  # name the store with --uri


class Cost(NamedTuple):
    """What a command took: processor seconds, and the largest memory and the growth of the folder in MiB."""

    command: str
    seconds: float
    memory: float
    disk: float


def measured(command: str, folder: Path, ids: Sequence[str]) -> tuple[Cost, str]:
    """Run a command in a folder, and return its cost and what it printed."""
    words = command.split()
    for name, value in zip(("RUN", "OTHER", "SWEEP"), ids, strict=False):
        words = [value if word == name else word for word in words]
    uri = f"sqlite:///{folder}/runs.db"
    if words[0] in NOT_COMPOSING:
        words += ["--uri", uri]
    elif words[0] not in ("verify", "trace"):
        words += [f"tracking.uri={uri}"]
    before = size(folder)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "80"}
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        printed = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise RuntimeError(f"{command}: exit code {process.returncode}")
    seconds = usage.ru_utime + usage.ru_stime
    return Cost(command, seconds, usage.ru_maxrss / 1024, (size(folder) - before) / 2**20), printed


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def page(costs: Sequence[Cost]) -> str:
    """Return the page docs/reference/costs.md."""
    rows = [
        (f"`{c.command}`", f"{c.seconds:.0f}" if c.seconds >= 1 else "< 1", f"{c.memory:.0f}", disk(c)) for c in costs
    ]
    return f"""# Time and space

*What does a command take?* Written by `python -m tools.costs` on {datetime.date.today()}. Do not edit; run it again.

{platform.machine()}, {cores()} cores, Python {platform.python_version()}. Seconds are processor time in one
process, with the start of Python and its libraries. On an idle machine the clock shows about as many, and fewer for a
sweep, which uses all cores unless `--jobs` says otherwise. Memory is that of the largest process. Disk is what the
command added: database, files of runs, and the pages that it wrote. The first command that opens a store creates it.

{table(("gradvitals ...", "seconds", "memory, MiB", "disk, MiB"), rows)}

## Estimate a sweep

- A run has about {disk_of_a_run(costs):.1f} MiB in the store. `tracking.figures=false` leaves out its figure,
  `tracking.parameters=false` its final parameters (8 bytes for each parameter and replicate).
- The time of a sweep is that of its steps: cells × replicates × steps × the time of [one step](../benchmarks.md),
  divided by the number of processes. Replicates of a small network train in one stack and cost little.
- Measuring costs what [the cost of measuring](../measuring_cost.md) says. `make profile ARGS="sweep experiment=depth"`
  prints where the time of a command went.
- A store of 10,000 runs has about 1 GiB in its database ([the size of the store](../store_scale.md)).
"""


def disk(cost: Cost) -> str:
    """Return the disk space of a command, "–" if it wrote nothing."""
    return f"{cost.disk:.1f}" if cost.disk >= 0.05 else "–"


def disk_of_a_run(costs: Sequence[Cost]) -> float:
    """Return the MiB of a run of the default sweep, which has 12 and a summary."""
    return next(cost.disk for cost in costs if cost.command == "sweep --jobs 1") / 12


def main() -> int:
    """Measure all commands and write the page."""
    costs: list[Cost] = []
    ids: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for command in COMMANDS:
            cost, printed = measured(command, Path(name), [ids.get(n, n) for n in ("RUN", "OTHER", "SWEEP")])
            costs.append(cost)
            print(f"{cost.seconds:6.1f} s  {command}", flush=True)
            if run := re.search(r"reproduce ([0-9a-f]{8})", printed):
                ids.setdefault("OTHER" if "RUN" in ids else "RUN", run[1])
            if sweep := re.search(r"sweep (\S+-[0-9a-f]{8})\b", printed):
                ids["SWEEP"] = sweep[1]
    PAGE.write_text(page(costs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
