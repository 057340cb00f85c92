"""Steps that are noted and looked at later: what is read of them is what was to be read at once."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from parts import batch, network

from engine import activations as act
from engine.arrays import Array
from engine.costs import HalfSquaredError
from engine.learning_rates import Constant
from engine.moment import Moment
from engine.network import Network
from engine.notes import NotedRows, NotedSums, Notes
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
    proposal, expected = PLAIN.propose(net, PLAIN.start(net), 0, 1), []
    notes = NotedRows(Moment(net, proposal), wanted, 8, of_update=True, lap=None)

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

    for step, how in enumerate(("seen", "unseen", "seen before", "huge", "lost", "seen", "no multiple", "huge")):
        net.theta[...] = rng.standard_normal(net.theta.shape) * {"huge": 1e200, "no multiple": 0}.get(how, 1)
        net.gradient(x * (np.nan if how == "lost" else 1), y, HALF, Seeing(notes) if how != "unseen" else None)
        if how == "seen before":
            net.theta *= 2
            net.gradient(x, y, HALF)
        update = net.grad if how == "no multiple" else proposal
        noted = notes.note(Moment(net, update, y, HALF), step)
        assert noted == (how not in ("huge", "lost", "no multiple"))
        if noted:
            expected.append(read(Layers.of(net, proposal)))
    assert notes.steps == [0, 1, 2, 5]
    for found, *alone in zip(read(notes.vitals()), *expected, strict=True):
        np.testing.assert_array_equal(found[:, :4], np.stack(alone, axis=1), strict=True)


class Broken(act.Identity):
    """A σ whose σ' cannot be taken when it is armed; the backward pass can do without."""

    armed = False

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        return np.positive(dC_da, out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        if Broken.armed:
            raise KeyboardInterrupt
        return super().derivative(z, a, out)


@np.errstate(all="ignore")
def test_a_pass_that_was_half_seen_is_looked_at_again() -> None:
    sigma = Broken()
    net, wanted = network([3, 4, 2], [act.Tanh(), sigma]), Wanted(frozenset({Of.ZZ, Of.DELTA}), frozenset({0.3}))
    x, y = batch(net, 5, 0)
    net.gradient(x, y, HALF)
    notes, expected = NotedRows(Moment(net, net.grad), wanted, 8, of_update=False, lap=None), []
    for step in range(3):
        net.theta += 1
        net.gradient(x, y, HALF)  # so that only what looks on breaks off
        Broken.armed = step == 1
        with suppress(KeyboardInterrupt):
            net.gradient(x, y, HALF, Seeing(notes))
        Broken.armed = False
        assert notes.note(Moment(net, net.grad), step)
        expected.append(Layers.of(net, net.grad).z_mean_square)
    np.testing.assert_array_equal(notes.vitals().z_mean_square[:, :3], np.stack(expected, axis=1))


class Breaking(act.Tanh):
    """A σ of which one part cannot be taken."""

    part = ""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return self._unless("value", super().value(z, out))

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return self._unless("derivative", super().derivative(z, a, out))

    def _unless(self, part: str, found: Array) -> Array:
        if Breaking.part == part:
            raise KeyboardInterrupt
        return found


@pytest.mark.parametrize("part", ["value", "derivative"])
def test_of_a_pass_that_broke_off_nothing_is_left(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the forward pass nor in the backward pass."""
    net, wanted = network([3, 4, 2], [act.Tanh(), Breaking()]), Wanted(frozenset({Of.ZZ, Of.DELTA}))
    x, y = batch(net, 5, 0)
    net.gradient(x, y, HALF, wanted)
    assert net.sighting is not None
    monkeypatch.setattr(Breaking, "part", part)
    with pytest.raises(KeyboardInterrupt):
        net.gradient(x, y, HALF, wanted)
    assert net.sighting is None


@pytest.mark.parametrize("kind", [NotedRows, NotedSums])
def test_steps_of_another_network_are_not_noted(kind: type[Notes]) -> None:
    nets, wanted = [network([3, 4, 2], [act.Tanh(), act.Identity()]) for _ in range(2)], Wanted(frozenset({Of.ZZ}))
    x, y = batch(nets[0], 5, 0)
    moments = []
    for net in nets:
        net.gradient(x, y, HALF, wanted)
        moments.append(Moment(net, net.grad))
    more = {"lap": None} if kind is NotedRows else {}
    notes = kind(moments[0], wanted, 2, of_update=False, **more)
    assert [notes.note(moments[k], k) for k in (0, 1, 0, 0)] == [True, False, True, False], "no room in the end"


def test_a_network_of_which_steps_are_noted_is_gone_when_nobody_uses_it() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Identity()])
    wanted = Wanted(frozenset(Of), frozenset({0.3}), live=True)
    x, y = batch(net, 5, 0)
    net.gradient(x, y, HALF)
    notes = NotedRows(Moment(net, net.grad), wanted, 8, of_update=False, lap=None)
    net.gradient(x, y, HALF, Seeing(notes))
    there = weakref.ref(net)
    gc.disable()
    try:
        del net
        assert there() is None
    finally:
        gc.enable()
