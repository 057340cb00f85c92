"""Any probe under a random cotangent: δ^L is Gaussian instead of the cost's."""

from __future__ import annotations

from dataclasses import dataclass

from engine.probes.base import Measurement, Probe, Step, Traits, measure, traits_of

_COTANGENT = 1


@dataclass(frozen=True)
class RandomCotangent:
    """What ``probe`` measures when δ^L ~ N(0, 1) takes the place of the cost's error.

    The backward pass of theory, without what the cost adds: δ^L of all examples alike in size, and independent of the
    weights. Drawn afresh at each step from the run's own seed; training is not affected.

    Args:
        probe: the probe to apply. One that compares with the step before has no value here.
    """

    probe: Probe

    @property
    def traits(self) -> Traits:
        """Those of the probe, applied to a step."""
        return traits_of(self.probe)._replace(of_step=True)

    def __call__(self, step: Step) -> list[Measurement]:
        network = step.network
        twin = network.twin("random cotangent")
        twin.forward(network.x)
        twin.backward_from(step.normal(_COTANGENT, network.output.delta.shape[-2:]))
        twin.update[...] = network.update
        return measure(Step(twin, generators=step.generators, inputs=step.inputs), self.probe)
