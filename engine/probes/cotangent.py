"""Any probe with a random cotangent: δ^L is Gaussian instead of the cost's error."""

from __future__ import annotations

from dataclasses import dataclass

from engine.probes.base import Measurement, Probe, Step, Traits, measure, traits_of

_STREAM = 1  # differs from the streams of other probes


@dataclass(frozen=True)
class RandomCotangent:
    """Measurements of ``probe`` with δ^L ~ N(0, 1) in place of the cost's error.

    As in mean-field theory, δ^L is independent of the weights and has the same distribution for every example. It is
    drawn at each step from the run's seed; training is not affected.

    Args:
        probe: Probe to apply; one that reads the previous gradient has no value here.
    """

    probe: Probe

    @property
    def traits(self) -> Traits:
        """Return the traits of the probe, as a probe of a step."""
        return traits_of(self.probe)._replace(of_step=True)

    def __call__(self, step: Step) -> list[Measurement]:
        network = step.network
        twin = network.twin("random cotangent")
        twin.forward(network.x)
        twin.backward_from(step.normal(_STREAM, network.output.delta.shape[-2:]))
        twin.update[...] = network.update
        return measure(Step(twin, generators=step.generators, inputs=step.inputs), self.probe)
