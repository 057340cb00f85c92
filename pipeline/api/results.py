"""What the functions of the Python interface return: a run, a sweep, the trials of remedies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from engine.arrays import Array
from engine.network import Network
from pipeline.analysis.estimates import Estimate, show
from pipeline.api import pages
from pipeline.api.sources import Source
from pipeline.errors import ConfigError
from pipeline.reports.figures.profiles import RunProfile, overlay_plot, run_plot
from pipeline.tracking.run_names import short_key
from pipeline.training import predict
from pipeline.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FINAL = "final_"  # how the names of final costs and scores begin
LEFT_OUT = re.compile("per_layer|gradient_norm")  # final numbers that a notebook does not show
COLUMNS = {  # of a sweep's table in a notebook, and their titles
    "verdict": "verdict",
    "decades_lost_delta_rms_start": "decades of δ lost, start",
    "final_accuracy_test": "test accuracy",
    "final_r2_test": "test R²",
    "run_id": "run",
}


@dataclass(frozen=True, repr=False, eq=False)
class Run:
    """A run: what was measured, what it means, and the trained network.

    A notebook shows the verdict, its explanation, the final numbers and the figure. Everything but the attributes below
    is read when it is first asked for.

    Attributes:
        name: Its name.
        run_id: Its id in the store; None for a run without tracking.
        status: FINISHED, KILLED (stopped early), FAILED, or NOT RUN after a failure in its sweep.
        verdict: The classes of the verdict, such as "vanishing"; "" if it measured too little for one.
        swept: Values of the keys that differ in its sweep, as text.
        error: Why it failed; None if it did not.
    """

    name: str
    run_id: str | None
    status: str
    verdict: str
    swept: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    _source: Source | None = None

    @property
    def _parts(self) -> Source:
        if self._source is None:
            reason = f"failed ({self.error})" if self.status == "FAILED" else f"is {self.status}"
            raise ConfigError(f"{self.name}: {reason}, so it has no result")
        return self._source

    @cached_property
    def explanation(self) -> str:
        """The verdict in plain words, with the remedies; "" without a verdict."""
        return "" if self._source is None else self._source.explanation

    @property
    def config(self) -> Mapping[str, Any]:
        """Its resolved config."""
        return self._parts.config

    @property
    def records(self) -> pd.DataFrame:
        """All records, one row for each value: step, probe, layer, replicate, bin, value.

        Layer is missing for a value of the whole network, bin for all but histograms and spectra.
        """
        return self._parts.records

    @cached_property
    def estimates(self) -> Mapping[str, Estimate]:
        """The final numbers by name: means over replicates with their 95% intervals."""
        return self._parts.summary.headline()

    @property
    def scores(self) -> dict[str, float]:
        """Means over replicates of the final costs and scores, such as ``accuracy_test``."""
        final = {name: e for name, e in self.estimates.items() if name.startswith(FINAL)}
        return {name.removeprefix(FINAL): float(e.mean) for name, e in final.items()}

    @property
    def table(self) -> pd.DataFrame:
        """The final numbers: mean, ends of the 95% interval, and the share of replicates that are not finite."""
        rows = {name: [float(v) for v in (e.mean, e.low, e.high, e.lost)] for name, e in self.estimates.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high", "not finite"])

    @property
    def network(self) -> Network:
        """The trained network, a stack [R] of all replicates.

        Raises:
            ConfigError: The store does not have its parameters, or its config names a package that is not trusted.
        """
        return self._parts.network

    def predict(self, X: Any) -> Array:
        """Return what each replicate predicts for inputs in the units of the source, standardised as in training.

        Args:
            X: Inputs [N, n_0] as the source has them, or a DataFrame with the columns of the source's file.

        Returns:
            For a classifier, [R, N]: the class with the largest output, by its label if the source has labels,
            otherwise by its number. For a regression, the targets in the units of the source: [R, N] for one target,
            otherwise [R, N, n_L].

        Raises:
            ConfigError: The inputs do not fit, or the data that the run was trained on have changed.
        """
        return predict.predictions(self.network, self._parts.prepare(), X)

    def outputs(self, X: Any) -> Array:
        """Return the outputs a^L of each replicate [R, N, n_L], such as the probabilities of a softmax.

        Args:
            X: Inputs, as for :meth:`predict`.
        """
        return predict.outputs(self.network, self._parts.prepare(), X)

    def figure(self) -> Figure:
        """Draw δ and the weight gradient against layer, at the start and at the end of training.

        Raises:
            ConfigError: The run measured neither.
        """
        drawn = run_plot(self._parts.summary, self._parts.theory, self.name)
        if drawn is None:
            raise ConfigError(f"{self.name}: measured neither delta_rms nor gradient_norm, so there is no figure")
        return drawn

    @property
    def _place(self) -> str:
        return "not tracked" if self.run_id is None else f"run {self.run_id[:8]}"

    @property
    def _outcome(self) -> str:
        return self.error or self.verdict or self.status.lower()

    def __repr__(self) -> str:
        scores = {} if self._source is None else self.scores
        shown = "".join(f", {name} {value:.3g}" for name, value in scores.items() if name.endswith("_test"))
        return f"<{self.name} ({self._place}): {self._outcome}{shown}>"

    def _repr_html_(self) -> str:
        head = pages.title(self.name, self._place, self._outcome)
        if self._source is None:
            return pages.page(head)
        rows = [(name.replace("_", " "), show(e)) for name, e in self.estimates.items() if not LEFT_OUT.search(name)]
        numbers = pd.DataFrame(rows, columns=["quantity", "mean [95% interval] over replicates"])
        return pages.page(head, pages.text(self.explanation), pages.table(numbers), pages.picture(self.figure))


@dataclass(frozen=True, repr=False, eq=False)
class Sweep:
    """All runs of a sweep. A notebook shows its table and the figure of all runs.

    Attributes:
        sweep_id: Its id in the store; None for a sweep without tracking.
        table: One row for each run: swept values, status, verdict, and the final numbers with their intervals.
        results: The runs, in the order of the table.
    """

    sweep_id: str | None
    table: pd.DataFrame
    results: Sequence[Run]
    _profiles: Sequence[RunProfile] = ()

    def figure(self) -> Figure:
        """Draw δ against layer at the start of training, one line for each run.

        Raises:
            ConfigError: No run measured it.
        """
        drawn = overlay_plot(self._profiles, self.sweep_id or "sweep")
        if drawn is None:
            raise ConfigError("no run of the sweep measured delta_rms, so there is no figure")
        return drawn

    @property
    def _head(self) -> tuple[str, str, str]:
        return "sweep", self.sweep_id or "not tracked", counted(len(self.results), "run")

    def __repr__(self) -> str:
        return "\n".join(["<{} ({}): {}>".format(*self._head), *map(repr, self.results)])

    def _repr_html_(self) -> str:
        titles = {key: short_key(key) for key in self.results[0].swept} | COLUMNS
        shown = self.table[[column for column in titles if column in self.table]].rename(columns=titles)
        shown["run"] = shown["run"].str[:8]
        return pages.page(pages.title(*self._head), pages.table(shown), pages.picture(self.figure))


@dataclass(frozen=True, repr=False, eq=False)
class Prescription:
    """The trials of remedies for a run: each change against the baseline, over the same seeds.

    Attributes:
        baseline: The run without a change.
        table: One row for each change, the last one a control: its overrides and reason, its verdict, in words what
            the trial shows, and the differences to the baseline with 95% intervals. Empty without remedies.
        results: The runs with a change, in the order of the table.
    """

    baseline: Run
    table: pd.DataFrame
    results: Sequence[Run]

    def __repr__(self) -> str:
        return "\n".join([repr(self.baseline), self.table.to_string(max_colwidth=40)])

    def _repr_html_(self) -> str:
        return pages.page(self.baseline._repr_html_(), pages.table(self.table))
