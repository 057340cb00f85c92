"""Steps that are noted and looked at later: what is read of them is what was to be read at once."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import numpy as np
from parts import batch, network

from engine import activations as act
from engine.arrays import Array
from engine.costs import HalfSquaredError
from engine.learning_rates import Constant
from engine.moment import Moment
from engine.network import Network
from engine.notes import NotedRows
from engine.observed import Layers
from engine.optimizers import SGD
from engine.sums import Of, Wanted
from engine.vitals import Vitals

HALF, PLAIN = HalfSquaredError(), SGD(0.1, 0.0, False, 0.0, None, Constant())


@dataclass
class Seeing:
    """An onlooker that lets these notes see."""

    notes: NotedRows

    def begin(self, network: Network) -> NotedRows:
        return self.notes


@np.errstate(all="ignore")
def test_a_step_that_is_noted_is_the_last_pass_however_it_came_about() -> None:
    """With an onlooker, without one, or with one that saw another pass; and what was refused leaves nothing behind."""
    net, rng = network([3, 4, 4, 2], [act.Tanh(), act.Relu(), act.Identity()], (2,)), np.random.default_rng(0)
    wanted = Wanted(frozenset(Of), frozenset({0.3}), live=True)
    x, y = batch(net, 5, 0)
    net.gradient(x, y, HALF)
    notes = NotedRows(net, wanted, 8, of_update=True, lap=None)
    proposal, expected = PLAIN.propose(net, PLAIN.start(net), 0, 1), []

    def read(vitals: Vitals) -> list[Array]:
        sizes = (
            vitals.gradient_norm,
            vitals.bias_gradient_norm,
            vitals.weight_norm,
            vitals.update_norm,
            vitals.delta_rms,
        )
        means = vitals.z_mean_square, vitals.activation_mean, vitals.activation_variance, vitals.dead_fraction
        return [*sizes, *means, vitals.share_below(0.3)]

    for step, how in enumerate(("seen", "unseen", "seen before", "huge", "lost", "seen", "huge")):
        net.theta[...] = rng.standard_normal(net.theta.shape) * (1e200 if how == "huge" else 1)
        net.gradient(x * (np.nan if how == "lost" else 1), y, HALF, Seeing(notes) if how != "unseen" else None)
        if how == "seen before":
            net.theta *= 2
            net.gradient(x, y, HALF)
        assert notes.note(Moment(net, proposal, y, HALF), step) == (how not in ("huge", "lost"))
        if how not in ("huge", "lost"):
            expected.append(read(Layers.of(net, proposal)))
    assert notes.steps == [0, 1, 2, 5]
    for found, *alone in zip(read(notes.vitals()), *expected, strict=True):
        np.testing.assert_array_equal(found[:, :4], np.stack(alone, axis=1), strict=True)


def test_a_network_of_which_steps_are_noted_is_gone_when_nobody_uses_it() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Identity()])
    wanted = Wanted(frozenset(Of), frozenset({0.3}), live=True)
    x, y = batch(net, 5, 0)
    net.gradient(x, y, HALF)
    notes = NotedRows(net, wanted, 8, of_update=False, lap=None)
    net.gradient(x, y, HALF, Seeing(notes))
    there = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert there() is None
    finally:
        gc.enable()
