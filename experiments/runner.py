"""An experiment: a sweep, an analysis of its records, and the claims that the analysis is held against.

A folder with ``claims.yaml`` (what is claimed, by whom, how far off is still right), ``analysis.py``
(``measured(results)`` and ``figure(results)``) and ``README.md``; its sweeps are files of the config group
``experiment``, in ``conf`` or in a ``conf`` of its own.
"""

from __future__ import annotations

import importlib.util
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate
from pipeline.analysis.summary import Summary
from pipeline.config.compose import Cell, compose_sweep
from pipeline.config.instantiate import one_line
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT
from pipeline.progress import bars
from pipeline.runs.execute import execute
from pipeline.sweeps.plan import check, source_tags, tracking_of
from pipeline.sweeps.summary import share, summarise, where
from pipeline.tracking.run_names import run_name
from pipeline.tracking.store import Store

EXPERIMENTS = PROJECT / "experiments"
CATALOGUE = PROJECT / "docs" / "experiments"


class Claim(pydantic.BaseModel):
    """One number that somebody claims.

    Attributes:
        key: of the analysis's result.
        says: the claim in words.
        claimed, tolerance: the number and how far off is still right.
        relative: whether the tolerance is a fraction of the number.
        provenance: read in the source's own text or data; a formula of the source; or derived from one.
        why: where the tolerance comes from.
        otherwise: why it may fail, where we know.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    key: str
    says: str
    claimed: float
    tolerance: float = pydantic.Field(ge=0)
    relative: bool
    provenance: Literal["source", "formula", "derived"]
    why: str
    otherwise: str = ""

    def within(self, measured: Estimate) -> bool:
        """Whether the mean is as close as the tolerance asks."""
        reach = self.tolerance * (abs(self.claimed) if self.relative else 1.0)
        return bool(abs(float(measured.mean) - self.claimed) <= reach)


class Description(pydantic.BaseModel):
    """claims.yaml.

    Attributes:
        sweeps: files of conf/experiment, all of which are run.
        slow: more of them, run when slow variants are asked for.
        slow_claims: claims that only the slow sweeps can answer.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    title: str
    source: str
    sweeps: tuple[str, ...]
    slow: tuple[str, ...] = ()
    claims: tuple[Claim, ...]
    slow_claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Result:
    """A finished cell, for the analysis.

    Attributes:
        sweep: the experiment file it belongs to.
        swept: swept key -> value, as text.
        node: the resolved config.
        summary: its records.
    """

    sweep: str
    swept: Mapping[str, str]
    node: Mapping[str, Any]
    summary: Summary

    def values(self, probe: str, index: int = 0) -> Array:
        """The first (0) or last (−1) record of a probe: [layers or 1, R].

        Raises:
            LookupError: it was not recorded.
        """
        record = self.summary.at(probe, index)
        if record is None:
            raise LookupError(f"{probe} was not recorded in {dict(self.swept)}")
        return record.values


def select(results: Sequence[Result], sweep: str | None = None, **swept: str) -> list[Result]:
    """Those of a sweep with these swept values; the last part of a key is enough (``activation="tanh"``)."""

    def fits(result: Result) -> bool:
        short = {key.rpartition(".")[2].rpartition("@")[2]: value for key, value in result.swept.items()}
        return all(short.get(key) == value for key, value in swept.items())

    return [r for r in results if (sweep is None or r.sweep == sweep) and fits(r)]


@dataclass(frozen=True)
class Experiment:
    """A folder, read."""

    name: str
    folder: Path
    description: Description
    measured: Callable[[Sequence[Result]], Mapping[str, Estimate]]
    figure: Callable[[Sequence[Result]], Figure]

    @property
    def config_dir(self) -> str | None:
        """Its own config groups, if it has any."""
        own = self.folder / "conf"
        return str(own) if own.is_dir() else None

    def claims(self, slow: bool) -> tuple[Claim, ...]:
        """Those to be answered."""
        return self.description.claims + (self.description.slow_claims if slow else ())


def names() -> list[str]:
    """The experiments that are here, in order."""
    return sorted(path.parent.name for path in EXPERIMENTS.glob("*/claims.yaml"))


def load(name: str) -> Experiment:
    """An experiment by name, or by the path of a folder of one's own.

    Raises:
        ConfigError: no such folder, or one that is not an experiment.
    """
    folder = Path(name) if "/" in name else EXPERIMENTS / name
    if not (folder / "claims.yaml").is_file():
        raise ConfigError(
            f"NAME={name}: no such experiment; allowed: {', '.join(names())}, or a folder with claims.yaml"
        )
    try:
        raw = yaml.safe_load((folder / "claims.yaml").read_text(encoding="utf-8"))
        description = Description.model_validate(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise ConfigError(f"{name}/claims.yaml: is not readable YAML") from broken
    except pydantic.ValidationError as invalid:
        first = invalid.errors()[0]
        raise ConfigError(f"{name}/claims.yaml: {'.'.join(map(str, first['loc']))}: {first['msg']}") from invalid
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", folder.name):
        raise ConfigError(f"NAME={name}: a folder's name may have letters, digits, '_', '-' and '.' only")
    module = _analysis(folder, name)
    return Experiment(folder.name, folder, description, module.measured, module.figure)


def _analysis(folder: Path, name: str) -> Any:
    path = folder / "analysis.py"
    spec = importlib.util.spec_from_file_location(f"experiments_{folder.name}_analysis", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{name}: has no analysis.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as broken:
        raise ConfigError(f"{name}/analysis.py: cannot be imported ({one_line(broken)})") from broken
    for needed in ("measured", "figure"):
        if not callable(getattr(module, needed, None)):
            raise ConfigError(f"{name}/analysis.py: has no function {needed}(results)")
    return module


@dataclass(frozen=True)
class Answer:
    """A claim and what was measured; None where the analysis has no answer."""

    claim: Claim
    measured: Estimate | None

    @property
    def within(self) -> bool:
        """Whether the claim holds here."""
        return self.measured is not None and self.claim.within(self.measured)


@dataclass(frozen=True)
class RunResult:
    """An experiment that was run."""

    experiment: Experiment
    answers: list[Answer]
    figure: Figure
    seconds: float
    failed: int


def run_experiment(
    experiment: Experiment, overrides: Sequence[str], slow: bool, quiet: bool, console: Console
) -> RunResult:
    """Run its sweeps, log them like any other, answer its claims.

    Raises:
        ConfigError: a mistake in any cell, before the first one runs.
    """
    begun = time.perf_counter()
    wanted = (*experiment.description.sweeps, *(experiment.description.slow if slow else ()))
    cells: list[tuple[str, Cell]] = []
    for sweep in wanted:
        found = compose_sweep([f"experiment={sweep}", *overrides], experiment.config_dir)
        check(found)
        cells += [(sweep, cell) for cell in found]
    store = Store.open(tracking_of(cells[0][1].config))
    sweep_id = f"{experiment.name}-{uuid.uuid4().hex[:8]}"
    tags = {"sweep": sweep_id, "kind": "run", "experiment": experiment.name, **source_tags(overrides)}
    keys = list(dict.fromkeys(key for _, cell in cells for key in cell.swept))
    outcomes, results = [], []
    with bars(len(cells), quiet) as shown:
        for sweep, cell in cells:
            swept = ({"part": sweep} if len(wanted) > 1 else {}) | {k: cell.swept.get(k, "–") for k in keys}
            outcome = execute(cell.config, store, run_name(cell.swept, sweep), swept, tags, shown)
            outcomes.append(outcome)
            if outcome.summary is not None:
                results.append(Result(sweep, cell.swept, cell.config, outcome.summary))
    measured = experiment.measured(results)
    answers = [Answer(claim, measured.get(claim.key)) for claim in experiment.claims(slow)]
    figure = experiment.figure(results)
    pages = {"claims.md": "\n".join(table_lines(answers)) + "\n"}
    summary_id = summarise(store, experiment.name, sweep_id, outcomes, pages, {"figure.png": figure}, _logged(answers))
    show(console, experiment, answers)
    where(console, store, share(store, sweep_id, outcomes), "charts of its runs")
    where(console, store, store.run_link(summary_id, "/artifacts/figure.png"), "its figure")
    failed = sum(o.status == "FAILED" for o in outcomes)
    return RunResult(experiment, answers, figure, time.perf_counter() - begun, failed)


def _logged(answers: Sequence[Answer]) -> dict[str, float | str]:
    """Claims as metrics and tags of the summary's run."""
    logged: dict[str, float | str] = {}
    for a in answers:
        logged[f"claim.{a.claim.key}"] = "within" if a.within else "outside"
        if a.measured is not None:
            logged[f"claim/{a.claim.key}"] = float(a.measured.mean)
    logged["claim/within"] = sum(a.within for a in answers) / max(len(answers), 1)
    return logged


HEADS = ("claim", "claimed", "measured [95% interval]", "tolerance", "", "provenance")


def _rows(answers: Sequence[Answer]) -> list[list[str]]:
    rows = []
    for a in answers:
        c, m = a.claim, a.measured
        tolerance = f"± {100 * c.tolerance:.2g}%" if c.relative else f"± {c.tolerance:g}"
        rows.append(
            [c.says, f"{c.claimed:.4g}", _measured(m), tolerance, "within" if a.within else "OUTSIDE", c.provenance]
        )
    return rows


def _measured(m: Estimate | None) -> str:
    if m is None or not np.isfinite(m.mean):
        return "nothing"
    interval = f" [{float(m.low):.4g}, {float(m.high):.4g}]" if np.isfinite(m.low) else ""
    return f"{float(m.mean):.4g}{interval}"


def table_lines(answers: Sequence[Answer]) -> list[str]:
    """The claims as a Markdown table, and for those that fail why, as far as we know."""
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _rows(answers)]
    reasons = [f"- {a.claim.says}: {a.claim.otherwise or 'not explained'}" for a in answers if not a.within]
    return [*lines, "", *reasons] if reasons else lines


def show(console: Console, experiment: Experiment, answers: Sequence[Answer]) -> None:
    """The claims on the terminal."""
    shown = Table(title=f"{experiment.description.title} ({experiment.description.source})", title_justify="left")
    for head in HEADS:
        shown.add_column(head)
    for row, a in zip(_rows(answers), answers, strict=True):
        shown.add_row(*row, style=None if a.within else "yellow")
    console.print(shown)
    for a in answers:
        if not a.within:
            console.print(f"outside: {a.claim.says}: {a.claim.otherwise or 'not explained'}", highlight=False)


def experiment(name: str, overrides: Sequence[str], slow: bool, quiet: bool, console: Console) -> int:
    """Run one; returns the exit code, 1 if a cell failed. A claim that fails is a finding, not a failure."""
    return int(run_experiment(load(name), overrides, slow, quiet, console).failed > 0)


def experiments(overrides: Sequence[str], slow: bool, quiet: bool, console: Console, to: Path = CATALOGUE) -> int:
    """Run all of them and write the catalogue; returns the exit code, 1 if a cell failed."""
    chosen = [load(name) for name in names()]
    outcomes = [run_experiment(e, overrides, slow, quiet, console) for e in chosen]
    to.mkdir(parents=True, exist_ok=True)
    for o in outcomes:
        o.figure.savefig(to / f"{o.experiment.name}.png", dpi=110)
    (to / "README.md").write_text("\n".join(catalogue(outcomes, slow)) + "\n", encoding="utf-8")
    answers = [a for o in outcomes for a in o.answers]
    console.print(f"{sum(a.within for a in answers)} of {len(answers)} claims within tolerance; {to / 'README.md'}")
    return int(any(o.failed for o in outcomes))


def catalogue(outcomes: Sequence[RunResult], slow: bool) -> list[str]:
    """The page with every claim and figure."""
    answers = [a for o in outcomes for a in o.answers]
    within = sum(a.within for a in answers)
    command = "make experiments" + (" SLOW=1" if slow else "")
    lines = ["# The canon of vanishing and exploding gradients", ""]
    lines += [f"Written by `{command}`. {within} of {len(answers)} claims are within their tolerance.", ""]
    for o in outcomes:
        d = o.experiment.description
        lines += [f"## {d.title}", "", f"{d.source}. `make experiment NAME={o.experiment.name}`; "]
        lines[-1] += f"[what it means](../../experiments/{o.experiment.name}/README.md)."
        lines += ["", f"![{d.title}]({o.experiment.name}.png)", "", *table_lines(o.answers), ""]
    return lines
