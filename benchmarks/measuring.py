"""What measuring costs: a step with each set of probes over the bare step, and every probe by itself: ``make bench``.

One thread, one process, contenders taking short turns, ratios within a round (see :mod:`benchmarks.timing`).
"""

from __future__ import annotations

from benchmarks import kernel

kernel.prepare(__name__ == "__main__")  # before NumPy is imported

import argparse  # noqa: E402
import gc  # noqa: E402
import shlex  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markdown import Markdown  # noqa: E402
from rich.progress import track  # noqa: E402

from benchmarks import report  # noqa: E402
from benchmarks.contenders import Problem, measured_step  # noqa: E402
from benchmarks.nets import DTYPES, NETS  # noqa: E402
from benchmarks.timing import Step, Times, interleaved, median_with_interval  # noqa: E402
from engine.probes import Probe, traits_of  # noqa: E402
from pipeline.config.compose import compose_run, compose_sweep  # noqa: E402
from pipeline.config.schema import build  # noqa: E402
from pipeline.sweeps.sweep import SweepOptions, run_single  # noqa: E402
from pipeline.tracking.store import Store, TrackingConfig  # noqa: E402
from pipeline.training.loop import train  # noqa: E402
from pipeline.training.prepare import prepare_run  # noqa: E402
from pipeline.training.timing import Timer  # noqa: E402

SETS = ("essential", "standard", "full")
LONG = 5e-3  # seconds of a bare step: longer ones have a promise
STEPS, TRACKING = 10_000, 0.03  # a run, and the largest share of its time that may go into tracking
PROMISED = {"essential": 1.3, "standard": 1.3}
SWEEP_SHARE = 0.08  # of the training steps of the default sweep that default probes and schedule may take
REPLICATES = 5


def probes_of(preset: str) -> dict[str, Probe]:
    """The probes of a set that are meant to be read often; costly ones have a schedule of their own."""
    return {name: p for name, p in build(compose_run([f"probes={preset}"])).probes.items() if not traits_of(p).costly}


def promised(preset: str, bare: float) -> float | None:
    """The largest ratio allowed for a bare step of so many seconds, if there is a promise for it."""
    return PROMISED.get(preset) if bare > LONG else None


TimeSteps = Callable[[Mapping[str, Step], float, int], Times]  # such as interleaved


def quickly(steps: Mapping[str, Step], seconds: float, rounds: int) -> Times:
    """In place of :func:`interleaved`: one round of the shortest turns."""
    return interleaved(steps, 0.0, 1)


def sweep_share() -> float:
    """The time of the probes over the time of the steps, in the training of all cells of the default sweep."""
    probes = steps = 0.0
    for cell in compose_sweep(["experiment=depth"]):
        config = build(cell.config)
        timer = Timer(time.perf_counter)
        for _ in train(prepare_run(config), timer=timer):
            timer.mark("records")
        steps += timer.seconds["step"]
        probes += sum(timer.seconds[name] for name in config.probes)
    return probes / steps


def sets_table(seconds: float, timed: TimeSteps) -> tuple[list[list[str]], list[str]]:
    """A row a net and dtype, and the promises that were broken."""
    rows, broken = [], []
    sets = {preset: probes_of(preset) for preset in SETS}
    cases = [(net, dtype) for net in NETS for dtype in DTYPES]
    for net, dtype in track(cases, "sets", console=Console(stderr=True), transient=True):
        problem = Problem.of(net, dtype)
        steps = {"bare": measured_step(problem, {})} | {s: measured_step(problem, p) for s, p in sets.items()}
        steps["five"] = measured_step(problem, {}, REPLICATES)
        steps["five measured"] = measured_step(problem, sets["standard"], REPLICATES)
        times = timed(steps, seconds, 7)
        bare, cells = float(np.median(times["bare"])), []
        for preset in SETS:
            ratio, low, high = median_with_interval(times[preset] / times["bare"])
            limit = promised(preset, bare)
            cells.append(f"{ratio:.2f}" + (f" (≤ {limit:g})" if limit else ""))
            if limit and low > limit:
                broken.append(f"{net.name} {dtype}: {preset} {ratio:.3f} [{low:.3f}, {high:.3f}] > {limit:g}")
        cells.append(f"{median_with_interval(times['five measured'] / times['five'])[0]:.2f}")
        rows.append([net.name, str(net.batch), dtype, f"{bare * 1e6:.0f}", *cells])
    return rows, broken


def probes_table(seconds: float, timed: TimeSteps) -> list[list[str]]:
    """A row a probe: what it adds to the bare step when it is the only one, on a small and a large net."""
    everything = build(compose_run(["probes=full"])).probes
    chosen = [Problem.of(NETS[2], "float64"), Problem.of(NETS[4], "float64")]
    rows: dict[str, list[str]] = {name: [] for name in everything if name not in ("dead_units",)}
    for problem in track(chosen, "probes", console=Console(stderr=True), transient=True):
        chosen_probes = {n: p for n, p in everything.items() if n in rows}
        fast = {n: measured_step(problem, {n: p}) for n, p in chosen_probes.items() if not traits_of(p).costly}
        slow = {n: measured_step(problem, {n: p}) for n, p in chosen_probes.items() if traits_of(p).costly}
        for steps, spent, least in ((fast, seconds * 4, 5), (slow, seconds, 1)):
            times = timed({"bare": measured_step(problem, {})} | steps, spent, least)
            for name in steps:
                added = np.median(times[name] - times["bare"]), np.median(times[name] / times["bare"])
                rows[name].append(f"{max(added[0], 0) * 1e6:.0f} µs, {added[1]:.2f}×")
    return [[name, *cells] for name, cells in rows.items()]


def tracking_share(steps: int) -> tuple[float, int, float]:
    """Of a default run of at least so many steps into a new sqlite store, after a short one.

    That one imports what tracking needs; what it and earlier measurements have left behind is collected before the
    clock starts, for a full garbage collection takes long compared with such a run, and falls into a random part of it.

    Returns:
        The share of its time that went into tracking, how many series that were, and seconds per step.
    """
    run = prepare_run(build(compose_run([])))
    epochs = -(-steps * run.config.epochs // run.length.last_step)
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/store.db"
        for where, lasting in (f"sqlite:///{folder}/first.db", 1), (uri, epochs):
            gc.collect()
            if run_single([f"epochs={lasting}", f"tracking.uri={where}"], SweepOptions(quiet=True)).exit_code:
                raise AssertionError("the run failed")
        (found,) = Store.open(TrackingConfig(uri, "gradvitals")).search()
    metrics = found.data.metrics
    spent = {k: v for k, v in metrics.items() if k.startswith("overhead/") and k != "overhead/all_probes"}
    lasted = (found.info.end_time - found.info.start_time) / 1000
    share = spent["overhead/tracking"] / (1 + sum(spent.values()))
    return (
        share,
        len(metrics),
        lasted / (1 + sum(spent.values())) / (epochs * run.length.last_step // run.config.epochs),
    )


def page(seconds: float, timed: TimeSteps, command: str, date: str) -> tuple[str, list[str]]:
    """The Markdown page, and the promises that were broken."""
    rows, broken = sets_table(seconds, timed)
    of_sweep = sweep_share()
    if of_sweep > SWEEP_SHARE:
        broken.append(f"default sweep {of_sweep:.3f} > {SWEEP_SHARE:g}")
    share, keys, step = tracking_share(STEPS)
    if share > TRACKING:
        broken.append(f"tracking {share:.3f} > {TRACKING:g}")
    lines = [
        "# What measuring costs",
        f"Written by `{command}` on {date}. Do not edit; run it again.",
        "\n".join(f"- {line}" for line in report.machine()),
        EXPLANATION,
        _table(["net", "B", "dtype", "bare µs", *SETS, "standard, 5 replicates"], rows),
        "Broken promises: " + ("; ".join(broken) if broken else "none") + ".",
        f"The default sweep (`make sweep`): its probes take {of_sweep:.1%} of the time of its training steps "
        f"(≤ {SWEEP_SHARE:.0%}).",
        f"Tracking: a default run of {STEPS} steps of {step * 1e6:.0f} µs, {keys} series in a new sqlite store, spends "
        f"{share:.1%} of its time on it (≤ {TRACKING:.0%}).",
        f"Each probe as the only one, added to the bare step of {NETS[2].name} and {NETS[4].name}, float64. Each:",
        _table(["probe", NETS[2].name, NETS[4].name], probes_table(seconds, timed)),
    ]
    return "\n\n".join(lines) + "\n", broken


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


EXPLANATION = """\
A step with a set of probes read *at every step*, over the same step with none: medians of ratios within a round, one
thread. A run measures on a schedule, so its own cost is far smaller: see the default sweep below, and `overhead/...`
among a run's metrics. `full` is without its costly probes (Jacobian spectra, sharpness, whole-pass units), which have a
schedule of their own. The last column is a stack of five replicates over the same stack unmeasured.

Promises are in brackets, for bare steps over 5 ms. A probe is a function of one layer of a few NumPy calls, each about
two microseconds; where a layer is small, these calls take as long as the step. A row that only less readable code
could keep is not kept: 64-64×50-10 has 51 small layers, so measuring it takes longer than its step."""


def main(argv: Sequence[str] | None = None) -> int:
    """Time, print, check; returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measuring", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each row (default 6)")
    parser.add_argument("--quick", action="store_true", help="a smoke test; its numbers mean little")
    parser.add_argument("--no-check", action="store_true", help="end with 0 even if a promise is broken")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the page to this Markdown file")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="the date to write (default: today)")
    given = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(given)
    command = shlex.join(["python", "-m", "benchmarks.measuring", *given])
    text, broken = page(options.seconds, quickly if options.quick else interleaved, command, options.date)
    Console(width=140).print(Markdown(text))
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return int(bool(broken) and not options.no_check)


if __name__ == "__main__":
    sys.exit(main())
