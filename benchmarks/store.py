"""Time store operations by the size of the store, up to 10,000 runs: run start, skip check, table of a sweep.

``python -m benchmarks.store``. The runs are copies of the runs of a real sweep, written to the database. They have as
many tags, parameters and metrics as real runs. Each sweep of 100 has its summary and its shared view.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown

from pipeline.reports.figures.style import BLUE, GREEN, ORANGE, RED, STYLE
from pipeline.reports.sweep_report import find_sweep
from pipeline.reproducibility.environment import provenance
from pipeline.reproducibility.fingerprint import cell_key
from pipeline.runs.cell import close_stale_runs, runs_of_cell
from pipeline.sweeps.sweep import SweepOptions, run_sweep
from pipeline.tracking import chart_view
from pipeline.tracking.store import Store, TrackingConfig

SIZES = (10, 100, 1000, 10_000)
CELLS = 100  # in each sweep
MODEL = ["experiment=smoke", "activation=sigmoid,relu", "probes=essential"]
OWN_TABLES = ("tags", "params", "latest_metrics", "metrics")
START, SKIP, TABLE, DEAD = "start of a run", "skip check, a cell", "table of a sweep, a cell", "look for dead runs"
COLOURS = {START: BLUE, SKIP: ORANGE, TABLE: GREEN, DEAD: RED}
SLACK = 1.5  # noise of a busy machine


def cell(number: int) -> str:
    """Return the fingerprint of a copied run."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def sweep_id(number: int) -> str:
    """Return the sweep id of a copied run."""
    return f"filled-{number // CELLS:08d}"


@dataclass
class Filler:
    """Fills a store with copies of the runs of one real sweep.

    Attributes:
        database: A connection to the store's file.
    """

    database: sqlite3.Connection

    def __post_init__(self) -> None:
        rows = self.database.execute("select run_uuid, value from tags where key = 'kind'").fetchall()
        self._cells = [run for run, kind in rows if kind == "run"]
        self._summary = next(run for run, kind in rows if kind == "sweep")

    def fill(self, store: Store, first: int, last: int) -> None:
        """Write runs ``first`` to ``last`` − 1 with the summaries and views of their sweeps."""
        for number in range(first, last):
            tags = {"sweep": sweep_id(number), cell_key(cell(number)): "1"}
            self._copy(self._cells[number % len(self._cells)], number, tags)
            if number % CELLS == 0:
                self._copy(self._summary, number, {"sweep_summary": sweep_id(number)})
                state = chart_view.sweep_view(f"tags.sweep = '{sweep_id(number)}'", "accuracy/test")
                key = (f"{chart_view.TAG}{sweep_id(number)}", state, store.experiment_id)
                self.database.execute("insert into experiment_tags (key, value, experiment_id) values (?, ?, ?)", key)
        self.database.commit()

    def _copy(self, run: str, number: int, tags: Mapping[str, str]) -> None:
        """Copy a run with all its rows, except the tags that identify it, which ``tags`` replaces."""
        run_id = uuid.uuid4().hex
        start = 1_700_000_000_000 + 1000 * number
        self._rows("runs", run, {"run_uuid": run_id, "start_time": start, "end_time": start + 900})
        for table in OWN_TABLES:
            self._rows(table, run, {"run_uuid": run_id})
        own = "key like 'mlflow.cell.%' or key like 'mlflow.attempt.%' or key in ('sweep', 'sweep_summary')"
        self.database.execute(f"delete from tags where run_uuid = ? and ({own})", (run_id,))  # noqa: S608 (a constant)
        self.database.executemany(
            "insert or replace into tags (key, value, run_uuid) values (?, ?, ?)",
            [(k, v, run_id) for k, v in tags.items()],
        )

    def _rows(self, table: str, run: str, changed: Mapping[str, Any]) -> None:
        columns = [row[1] for row in self.database.execute(f"pragma table_info({table})")]
        values = ", ".join(f":{c}" if c in changed else f'"{c}"' for c in columns)
        names = ", ".join(f'"{c}"' for c in columns)
        self.database.execute(
            f"insert into {table} ({names}) select {values} from {table} where run_uuid = :model",  # noqa: S608
            {**changed, "model": run},
        )


@dataclass(frozen=True)
class Row:
    """The times with one size of the store.

    Attributes:
        runs: The number of runs in the store.
        seconds: Seconds by operation. An operation on a whole sweep is divided by its cells.
    """

    runs: int
    seconds: Mapping[str, float]


def median(call: Callable[[], object], least: int, seconds: float) -> float:
    """Return the median processor time of a call in seconds, without the first call.

    Args:
        call: The function to time.
        least: The least number of calls.
        seconds: The time for all calls. 0 for one call, which is counted.
    """
    if seconds:
        call()
    least = least if seconds else 1
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.median(times))


def measured(store: Store, filler: Filler, runs: int, seconds: float) -> Row:
    """Time all operations on the store as it is."""
    cells = min(CELLS, runs)
    requested = [cell(number) for number in np.linspace(0, runs - 1, CELLS).astype(int).tolist()]
    middle = sweep_id(runs // 2)

    def start() -> None:
        store.start("started", {"kind": "run", **{f"tag{n}": "x" * 20 for n in range(25)}}).end("FINISHED")

    def skip() -> None:
        if any(len(runs_of_cell(store, identity)) != 1 for identity in requested):
            raise RuntimeError("a finished cell does not have exactly one run")

    def table() -> None:
        _, members = find_sweep(store, middle)
        if len(members) != cells:
            raise RuntimeError("runs of a sweep are missing")
        json.dumps([run.data.metrics for run in members])

    seconds_by_operation = {
        START: median(start, 10, seconds),
        SKIP: median(skip, 3, seconds) / CELLS,
        TABLE: median(table, 3, seconds) / cells,
        DEAD: median(lambda: close_stale_runs(store), 10, seconds),
    }
    filler.database.execute("delete from tags where run_uuid in (select run_uuid from runs where name = 'started')")
    filler.database.execute("delete from runs where name = 'started'")
    filler.database.commit()
    return Row(runs, seconds_by_operation)


def measure(sizes: Sequence[int], seconds: float, report: Callable[[str], None]) -> tuple[list[Row], str]:
    """Fill a store and time all operations.

    Args:
        sizes: The numbers of runs in the store, ascending.
        seconds: The time for each number.
        report: Called with a line before each size.

    Returns:
        The rows, and a description of the runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        uri = f"sqlite:///{path}"
        swept = run_sweep([*MODEL, f"tracking.uri={uri}"], SweepOptions(quiet=True))
        if swept.exit_code:
            raise RuntimeError("\n".join(swept.lines()))
        store = Store.open(TrackingConfig(uri, "gradvitals"))
        rows, existing = [], 0
        with sqlite3.connect(path, timeout=60) as database:
            filler = Filler(database)
            for runs in sizes:
                report(f"{runs} runs ...")
                filler.fill(store, existing, runs)
                existing = runs
                rows.append(measured(store, filler, runs, seconds))
            counts = [database.execute(f"select count(*) from {table}").fetchone()[0] for table in OWN_TABLES]  # noqa: S608
        each = ", ".join(
            f"{count / (existing + 2):.0f} {table}" for table, count in zip(OWN_TABLES, counts, strict=True)
        )
        return rows, f"a run has on average {each}; the database is {path.stat().st_size / 2**20:.0f} MiB in the end"


def growth(rows: Sequence[Row], name: str) -> tuple[float, float]:
    """Return the growth of the time from the first full sweep to the last size, and the growth of log N."""
    first = next((r for r in rows if r.runs >= CELLS), rows[0])
    last = rows[-1]
    return last.seconds[name] / first.seconds[name], math.log(last.runs) / math.log(first.runs)


def failures(rows: Sequence[Row]) -> list[str]:
    """Return the operations whose time grows faster than log N."""
    return [
        f"{name}: {grown:.2f}× while log N grows {allowed:.2f}×"
        for name in COLOURS
        for grown, allowed in [growth(rows, name)]
        if grown > SLACK * allowed
    ]


def picture(rows: Sequence[Row]) -> Figure:
    """Draw milliseconds against the number of runs in the store."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4))
        axes = figure.subplots()
        sizes = [r.runs for r in rows]
        for name, colour in COLOURS.items():
            axes.plot(sizes, [1000 * r.seconds[name] for r in rows], "o-", color=colour, label=name)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("finished runs in the store")
        axes.set_ylabel("milliseconds")
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        return figure


def page(rows: Sequence[Row], description: str, command: str, date: str, image: str) -> str:
    """Return the page docs/store_scale.md."""
    heads = ["runs in the store", *(f"{name}, ms" for name in COLOURS)]
    lines = [heads, ["---:"] * len(heads)]
    lines += [[f"{r.runs:,}", *(f"{1000 * r.seconds[n]:.2f}" for n in COLOURS)] for r in rows]
    grown = [growth(rows, name) for name in COLOURS]
    lines.append(["growth from 100 on", *(f"{g:.2f}×" for g, _ in grown)])
    facts = provenance().facts
    return "\n\n".join(
        [
            "# The size of the store",
            f"Written by `{command}` on {date}. Do not edit; run it again.",
            f"- CPU: {facts['processor']}\n- Python {facts['python']}, mlflow {facts['package.mlflow']}, sqlite "
            f"{sqlite3.sqlite_version}\n- {description}",
            EXPLANATION,
            "\n".join(f"| {' | '.join(cells)} |" for cells in lines),
            f"log N grows {grown[0][1]:.2f}×. Faster than log N: {'; '.join(failures(rows)) or 'nothing'}.",
            f"![milliseconds against runs in the store]({image})" if image else "",
        ]
    )


EXPLANATION = """\
Medians of processor time on an sqlite store, so other load does not count. *Start of a run*: a run is created with 25
tags and closed. *Skip check*: the query of `make sweep` whether a cell is finished, for each of 100 cells. *Table*: all
runs of one sweep of 100 (10 in the first row), with their final numbers. *Look for dead runs*: once in each
`make sweep`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Fill a store, time it, print the page. Return 1 if an operation grows faster than log N."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each number (default 3)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="runs in the store, ascending")
    parser.add_argument("--no-check", action="store_true", help="exit with 0 even if an operation grows too fast")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="also write the page to FILE, and the plot to the same folder"
    )
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="the date to write (default: today)")
    given = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(given)
    rows, description = measure(options.sizes, options.seconds, lambda text: print(text, file=sys.stderr))
    command = shlex.join(["python", "-m", "benchmarks.store", *given])
    image = options.write.with_suffix(".png") if options.write else None
    text = page(rows, description, command, options.date, image.name if image else "")
    Console(width=140).print(Markdown(text))
    if options.write and image:
        options.write.write_text(text + "\n", encoding="utf-8")
        picture(rows).savefig(image, dpi=120)
    return int(bool(failures(rows)) and not options.no_check)


if __name__ == "__main__":
    sys.exit(main())
