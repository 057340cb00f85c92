"""Time the cost of measuring: a step with each set of probes, and with every single probe, over the bare step.

``make bench``. One thread, one process, contenders in short alternating turns (see :mod:`benchmarks.timing`).
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
LONG = 5e-3  # seconds: longer bare steps have a promise
STEPS, TRACKING = 10_000, 0.03  # steps of a run, largest share of its time in tracking
PROMISED = {"essential": 1.3, "standard": 1.3}
SWEEP_SHARE = 0.08  # largest time of the probes over the time of the training steps, in the default sweep
REPLICATES = 5


def probes_of(preset: str) -> dict[str, Probe]:
    """Return the probes of a set without the costly ones, which have their own schedule."""
    return {name: p for name, p in build(compose_run([f"probes={preset}"])).probes.items() if not traits_of(p).costly}


def promised(preset: str, bare: float) -> float | None:
    """Return the largest allowed ratio to the bare step, or None for no promise.

    Args:
        preset: The set of probes.
        bare: Seconds of the bare step.
    """
    return PROMISED.get(preset) if bare > LONG else None


TimeSteps = Callable[[Mapping[str, Step], float, int], Times]  # such as interleaved


def quickly(steps: Mapping[str, Step], seconds: float, rounds: int) -> Times:
    """Time one round of the shortest turns, in place of :func:`interleaved`."""
    return interleaved(steps, 0.0, 1)


def sweep_share() -> float:
    """Return the time of the probes over the time of the training steps, for all cells of the default sweep."""
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
    """Return a row for each net and dtype, and the broken promises."""
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
    """Return a row for each probe: what the probe alone adds to the bare step, on a small and a large net."""
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
    """Measure tracking in a default run into a new sqlite store, after a short run.

    The short run imports the modules of tracking. A garbage collection before each run keeps a full collection out of
    the measured time.

    Args:
        steps: The least number of steps.

    Returns:
        The share of the run's time in tracking, the number of series, and the seconds per step.
    """
    run = prepare_run(build(compose_run([])))
    epochs = -(-steps // run.length.steps_per_epoch)
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/store.db"
        for store_uri, run_epochs in (f"sqlite:///{folder}/first.db", 1), (uri, epochs):
            gc.collect()
            if run_single([f"epochs={run_epochs}", f"tracking.uri={store_uri}"], SweepOptions(quiet=True)).exit_code:
                raise AssertionError("the run failed")
        (logged,) = Store.open(TrackingConfig(uri, "gradvitals")).search()
    metrics = logged.data.metrics
    spent = {k: v for k, v in metrics.items() if k.startswith("overhead/")}
    seconds = (logged.info.end_time - logged.info.start_time) / 1000
    share = spent["overhead/tracking"] / (1 + sum(spent.values()))
    return (
        share,
        len(metrics),
        seconds / (1 + sum(spent.values())) / (epochs * run.length.steps_per_epoch),
    )


def page(seconds: float, timed: TimeSteps, command: str, date: str) -> tuple[str, list[str]]:
    """Return the Markdown page and the broken promises."""
    rows, broken = sets_table(seconds, timed)
    probe_share = sweep_share()
    if probe_share > SWEEP_SHARE:
        broken.append(f"default sweep {probe_share:.3f} > {SWEEP_SHARE:g}")
    share, keys, step = tracking_share(STEPS)
    if share > TRACKING:
        broken.append(f"tracking {share:.3f} > {TRACKING:g}")
    lines = [
        "# The cost of measuring",
        f"Written by `{command}` on {date}. Do not edit; run it again.",
        "\n".join(f"- {line}" for line in report.machine()),
        EXPLANATION,
        _table(["net", "B", "dtype", "bare µs", *SETS, "standard, 5 replicates"], rows),
        "Broken promises: " + ("; ".join(broken) if broken else "none") + ".",
        f"The default sweep (`make sweep`): its probes take {probe_share:.1%} of the time of its training steps "
        f"(≤ {SWEEP_SHARE:.0%}).",
        f"Tracking: a default run of {STEPS} steps of {step * 1e6:.0f} µs, {keys} series in a new sqlite store, spends "
        f"{share:.1%} of its time in tracking (≤ {TRACKING:.0%}).",
        f"The time that each single probe adds to the bare step of {NETS[2].name} and {NETS[4].name}, float64:",
        _table(["probe", NETS[2].name, NETS[4].name], probes_table(seconds, timed)),
    ]
    return "\n\n".join(lines) + "\n", broken


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


EXPLANATION = """\
The time of a step with a set of probes *at every step*, over the same step without probes: medians of ratios within a
round, one thread. A run measures on a schedule, so its cost is far smaller: see the default sweep below, and
`overhead/...` among a run's metrics. `full` excludes the costly probes (Jacobian spectra, sharpness, whole-pass units),
which have their own schedule. The last column is a stack of five replicates over the same stack without probes.

Promises are in brackets, for bare steps over 5 ms. A probe is a function of one layer with a few NumPy calls of about
two microseconds each. In small layers these calls take as long as the step. A promise that only less readable code
could keep stays broken: 64-64×50-10 has 51 small layers, so measuring takes longer than the step."""


def main(argv: Sequence[str] | None = None) -> int:
    """Time the probes, print the page, check the promises. Return 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measuring", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each row (default 6)")
    parser.add_argument("--quick", action="store_true", help="a smoke test; its numbers mean little")
    parser.add_argument("--no-check", action="store_true", help="exit with 0 even if a promise is broken")
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
