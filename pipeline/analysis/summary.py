"""What a run comes to: the gradient lost on the way down, and how well the network learned."""

from __future__ import annotations

import numpy as np

from engine.arrays import Array
from pipeline.analysis.estimates import Estimate, estimate
from pipeline.training.records import Record

PROFILED = ("delta_rms", "gradient_norm", "bias_gradient_norm")


class Summary:
    """Collects records and answers the questions that tables and figures ask.

    Attributes:
        records: all of them, in order.
        hidden_layers: how many there are.
    """

    def __init__(self, hidden_layers: int) -> None:
        self.records: list[Record] = []
        self.hidden_layers = hidden_layers

    def add(self, record: Record) -> None:
        """Take note of one more record."""
        self.records.append(record)

    def steps(self, probe: str) -> list[int]:
        """Steps at which the probe was recorded."""
        return [r.step for r in self.records if r.probe == probe]

    def probes(self) -> list[str]:
        """Names of all per-layer probes, in order of first appearance."""
        return list(dict.fromkeys(r.probe for r in self.records if r.layers))

    def at(self, probe: str, index: int) -> Record | None:
        """The probe's first (0) or last (−1) record."""
        found = [r for r in self.records if r.probe == probe]
        return found[index] if found else None

    def decades_lost(self, probe: str, index: int) -> Array | None:
        """log10 of the probe in the last hidden layer over the first hidden layer, one value a replicate [R].

        Positive: the gradient shrinks on its way to the input. None with fewer than two hidden layers.
        """
        record = self.at(probe, index)
        if record is None or self.hidden_layers < 2:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(record.values[self.hidden_layers - 1]) - np.log10(record.values[0])

    def headline(self) -> dict[str, Estimate]:
        """The final numbers by metric name, each with its interval over replicates."""
        return {name: estimate(values) for name, values in self.final_values().items()}

    def final_values(self) -> dict[str, Array]:
        """The final numbers by metric name, one value a replicate [R]."""
        found: dict[str, Array] = {}
        for probe in ("delta_rms", "gradient_norm"):
            for index, when in ((0, "start"), (-1, "end")):
                lost = self.decades_lost(probe, index)
                if lost is not None:
                    found[f"decades_lost_{probe}_{when}"] = lost
                    found[f"decades_lost_per_layer_{probe}_{when}"] = lost / (self.hidden_layers - 1)
        for quantity in ("cost/train", "cost/test", "accuracy/train", "accuracy/test", "r2/train", "r2/test"):
            record = self.at(quantity, -1)
            if record is not None:
                found[f"final_{quantity.replace('/', '_')}"] = record.values[0]
        return found


def show(value: Estimate, digits: int = 3) -> str:
    """'0.912 [0.905, 0.919]', or the mean alone where there is no interval; with the share that is in neither."""
    mean, lost = float(value.mean), float(value.lost)
    if not np.isfinite(mean):
        return "not finite"
    low, high = float(value.low), float(value.high)
    interval = f" [{low:.{digits}g}, {high:.{digits}g}]" if np.isfinite(low) else ""
    return f"{mean:.{digits}g}{interval}" + (f" ({lost:.0%} not finite)" if lost else "")
