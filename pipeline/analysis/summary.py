"""Summary of a run: the decades of gradient lost between the layers, and the final cost and score."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.analysis.noise_scale import noise_scale
from pipeline.training.records import Record, non_finite

PROFILED = ("delta_rms", "gradient_norm", "bias_gradient_norm")
NOISE = ("gradient_variance", "gradient_signal")  # of the gradient noise scale
JUDGED = ("delta_rms", "dead_fraction", "saturated_fraction", "update_to_weight", "cost/train", *NOISE)
MOST_SAMPLES = 1000  # records of a judged probe; more change a median of measurements little


class EvenSample:
    """A bounded, evenly spaced sample of a probe's records, with the first and the last.

    The sample keeps every record until there are more than ``MOST_SAMPLES``. It then drops every second one, and keeps
    every second of the following records, and so on.
    """

    def __init__(self) -> None:
        self._kept: list[Record] = []
        self._last: Record | None = None
        self._count, self._spacing = 0, 1

    def add(self, record: Record) -> None:
        """Add the next record."""
        if self._count % self._spacing == 0:
            self._kept.append(record)
        if len(self._kept) > MOST_SAMPLES:
            self._kept, self._spacing = self._kept[::2], 2 * self._spacing
        self._last = record
        self._count += 1

    def records(self) -> list[Record]:
        """Return the sample, in order."""
        if self._last is None or self._last is self._kept[-1]:
            return list(self._kept)
        return [*self._kept, self._last]


class RunningSummary:
    """The numbers that tables, the verdict and a run's figure show. Its memory does not grow with the run's length.

    Attributes:
        hidden_layers: Number of hidden layers.
        last_step: The step of the newest record.
        values: Number of recorded values.
        non_finite: Number of recorded values that are infinite or NaN.
        has_diverged: Whether every replicate diverged, so that no value is final. The caller sets it.
    """

    has_diverged = False

    def __init__(self, hidden_layers: int) -> None:
        self.hidden_layers = hidden_layers
        self.last_step = self.values = self.non_finite = 0
        self._first: dict[str, Record] = {}
        self._last: dict[str, Record] = {}
        self._samples: defaultdict[str, EvenSample] = defaultdict(EvenSample)

    def add(self, record: Record) -> None:
        """Add the next record."""
        self.last_step = record.step
        self.values += record.values.size
        self.non_finite += non_finite([record])
        self._first.setdefault(record.probe, record)
        self._last[record.probe] = record
        if record.probe in JUDGED:
            self._samples[record.probe].add(record)

    def at(self, probe: str, index: int) -> Record | None:
        """Return the probe's first (0) or last (−1) record."""
        return {0: self._first, -1: self._last}[index].get(probe)

    def series(self, probe: str) -> list[Record]:
        """Return the records of a probe in ``JUDGED``: all of them, or an evenly spaced sample of a long run's."""
        return self._samples[probe].records() if probe in self._samples else []

    def decades_lost(self, probe: str, index: int) -> Array | None:
        """Return log10 of the probe in the last hidden layer over the first, one value for each replicate [R].

        A positive value means that the gradient shrinks on its way to the input.

        Args:
            probe: Name of the probe.
            index: 0 for its first record, −1 for its last.

        Returns:
            None without a record or with fewer than two hidden layers.
        """
        record = self.at(probe, index)
        if record is None or self.hidden_layers < 2:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(record.values[self.hidden_layers - 1]) - np.log10(record.values[0])

    def headline(self) -> dict[str, Estimate]:
        """Return the final numbers by metric name, with intervals over replicates."""
        numbers = {name: estimate(values) for name, values in self.final_values().items()}
        variances, signals = (self.series(probe) for probe in NOISE)
        return numbers | ({"gradient_noise_scale": noise_scale(variances, signals)} if variances and signals else {})

    def final_values(self) -> dict[str, Array]:
        """Return the final numbers by metric name, one value for each replicate [R].

        A run whose replicates have all diverged has no final cost and score: the last evaluation was before that.
        """
        values: dict[str, Array] = {}
        for probe in ("delta_rms", "gradient_norm"):
            for index, when in ((0, "start"), (-1, "end")):
                lost = self.decades_lost(probe, index)
                if lost is not None:
                    values[f"decades_lost_{probe}_{when}"] = lost
                    values[f"decades_lost_per_layer_{probe}_{when}"] = lost / (self.hidden_layers - 1)
        if self.has_diverged:
            return values
        for quantity, part in product(("cost", "accuracy", "r2"), ("train", "validation", "test")):
            record = self.at(f"{quantity}/{part}", -1)
            if record is not None:
                values[f"final_{quantity}_{part}"] = record.values[0]
        return values


class Summary(RunningSummary):
    """The summary of a run with all its records, for figures that show each step.

    Attributes:
        records: All records, in order.
    """

    def __init__(self, hidden_layers: int) -> None:
        super().__init__(hidden_layers)
        self.records: list[Record] = []

    def add(self, record: Record) -> None:
        """Add the next record."""
        super().add(record)
        self.records.append(record)

    def steps(self, probe: str) -> list[int]:
        """Return the steps at which the probe was recorded."""
        return [r.step for r in self.records if r.probe == probe]
