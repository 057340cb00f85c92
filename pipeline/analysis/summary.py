"""Summary of a run: the decades of gradient lost between the layers, and the final cost and score."""

from __future__ import annotations

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.training.records import Record

PROFILED = ("delta_rms", "gradient_norm", "bias_gradient_norm")


class Summary:
    """The records of a run, with the numbers that tables and figures show.

    Attributes:
        records: All records, in order.
        hidden_layers: Number of hidden layers.
    """

    def __init__(self, hidden_layers: int) -> None:
        self.records: list[Record] = []
        self.hidden_layers = hidden_layers

    def add(self, record: Record) -> None:
        """Append a record."""
        self.records.append(record)

    def steps(self, probe: str) -> list[int]:
        """Return the steps at which the probe was recorded."""
        return [r.step for r in self.records if r.probe == probe]

    def probes(self) -> list[str]:
        """Return the names of all per-layer probes, in order of first appearance."""
        return list(dict.fromkeys(r.probe for r in self.records if r.layers))

    def at(self, probe: str, index: int) -> Record | None:
        """Return the probe's first (0) or last (−1) record."""
        records = [r for r in self.records if r.probe == probe]
        return records[index] if records else None

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
        return {name: estimate(values) for name, values in self.final_values().items()}

    def final_values(self) -> dict[str, Array]:
        """Return the final numbers by metric name, one value for each replicate [R]."""
        values: dict[str, Array] = {}
        for probe in ("delta_rms", "gradient_norm"):
            for index, when in ((0, "start"), (-1, "end")):
                lost = self.decades_lost(probe, index)
                if lost is not None:
                    values[f"decades_lost_{probe}_{when}"] = lost
                    values[f"decades_lost_per_layer_{probe}_{when}"] = lost / (self.hidden_layers - 1)
        for quantity in ("cost/train", "cost/test", "accuracy/train", "accuracy/test", "r2/train", "r2/test"):
            record = self.at(quantity, -1)
            if record is not None:
                values[f"final_{quantity.replace('/', '_')}"] = record.values[0]
        return values


def show(value: Estimate, digits: int = 3) -> str:
    """Format an estimate: '0.912 [0.905, 0.919]', with the share of replicates that are not finite, if any."""
    mean, lost = float(value.mean), float(value.lost)
    if not np.isfinite(mean):
        return "not finite"
    low, high = float(value.low), float(value.high)
    interval = f" [{low:.{digits}g}, {high:.{digits}g}]" if np.isfinite(low) else ""
    return f"{mean:.{digits}g}{interval}" + (f" ({lost:.0%} not finite)" if lost else "")
