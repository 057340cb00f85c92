"""The gradient checker itself: planted faults are found and named, right parts pass by the sharp method."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from support.networks import ELEMENTWISE, batch, name, network

from engine import activations as act
from engine import costs
from engine.activations import Activation
from engine.arrays import Array
from engine.blocks import Block
from engine.gradient_check import Check, Report, check_activation, check_cost, check_network, directional_derivative
from engine.network import Dense, Network
from engine.normalisation import LayerNorm
from engine.residual import Residual

ANALYTIC = [act.Sigmoid(), act.Tanh(), act.Silu(), act.Identity(), act.Softmax()]


class Faulty(Dense):
    """A layer with one gradient that is off by a factor."""

    part = ""
    factor: float | Array = 1.0

    def backward_from(self, delta: Array) -> None:
        super().backward_from(delta)
        if self.part.startswith("d"):
            getattr(self, self.part)[...] *= self.factor

    def input_gradient(self) -> Array:
        return super().input_gradient() * (self.factor if self.part == "a_in" else 1.0)

    def twin(self) -> Faulty:
        other = Faulty(self.n_in, self.n_out, self.sigma)
        other.part, other.factor = self.part, self.factor
        return other


def faulty(like: Network, number: int, part: str, factor: float | Array) -> Network:
    """The same network with a fault in one layer."""
    blocks: list[Block] = [block.twin() for block in like.blocks]
    wrong = Faulty(blocks[number - 1].n_in, blocks[number - 1].n_out, like.layers[number - 1].sigma)
    wrong.part, wrong.factor = part, factor
    blocks[number - 1] = wrong
    return Network(blocks, like.ensemble, theta=like.theta)


@pytest.mark.parametrize("ensemble", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("part", ["dW", "db", "a_in"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_wrong_gradient_of_one_layer_is_named_alone(number: int, part: str, ensemble: tuple[int, ...]) -> None:
    """One part in a million is enough, and no other part is blamed."""
    right = network([3, 5, 4, 2], [act.Tanh(), act.Sigmoid(), act.Softmax()], ensemble)
    net = faulty(right, number, part, 1 + 1e-6)
    x, y = batch(net, 6)
    rng = np.random.default_rng(0)
    report = check_network(net, x, y, costs.LogLikelihood(), rng)
    sigma = type(net.layers[number - 1].sigma).__name__
    wrong = f"layer {number} ({sigma}) ∂C/∂{part.removeprefix('d')}"
    assert [check.part for check in report.checks if not check.passed] == [wrong]
    with pytest.raises(AssertionError, match=rf"^wrong gradient in {re.escape(wrong)}: relative error 1\."):
        report.require()
    assert check_network(right, x, y, costs.LogLikelihood(), rng).require().checks[0].part == "network ∂C/∂θ"


def test_a_fault_in_one_member_of_a_stack_is_found() -> None:
    factors = np.array([1.0, 1.0001, 1.0])[:, None, None]
    net = faulty(network([3, 4, 2], [act.Tanh(), act.Identity()], (3,)), 2, "dW", factors)
    x, y = batch(net, 5)
    report = check_network(net, x, y, costs.SquaredError(), np.random.default_rng(0))
    assert [check.part for check in report.checks if not check.passed] == ["layer 2 (Identity) ∂C/∂W"]


class Half(LayerNorm):
    """A block whose author forgot that the mean depends on every unit."""

    def backward(self, dC_da: Array) -> None:
        super().backward(dC_da)
        np.divide(dC_da, self._std, out=self._dC_da_in)

    def twin(self) -> Half:
        return Half(self.n_in, self.epsilon, self.learned)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a residual block"])
def test_a_wrong_block_of_a_users_own_is_named(inside: bool) -> None:
    """The residual block around it is not blamed."""
    wrong: Block = Residual([Half(5, 1e-5, learned=False), Dense(5, 5, act.Tanh())]) if inside else Half(5, 1e-5, False)
    net = Network([Dense(3, 5, act.Tanh()), wrong, Dense(5, 2, act.Softmax())])
    net.theta[...] = np.random.default_rng(0).standard_normal(net.theta.shape)
    report = check_network(net, *batch(net, 6), costs.LogLikelihood(), np.random.default_rng(0))
    assert [check.part for check in report.checks if not check.passed] == ["Half ∂C/∂a_in"]


@pytest.mark.parametrize("sigma", ELEMENTWISE, ids=name)
def test_every_slope_off_by_a_little_is_found(sigma: Activation) -> None:
    """A wrong σ' fails, whichever σ it sits beside and whichever method is open to it."""
    assert isinstance(sigma, act.Elementwise)
    inner: act.Elementwise = sigma

    class Steeper(act.Elementwise):
        def value(self, z: Array, out: Array | None = None) -> Array:
            return inner.value(z, out)

        def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
            slope = inner.derivative(z, a, out)
            slope *= 1.0001
            return slope

    with pytest.raises(AssertionError, match=r"Steeper\.pull_back.*Steeper\.jacobian"):
        check_activation(Steeper(), np.random.default_rng(0)).require()


class Doubled(act.Sigmoid):
    """Another σ, derived from one of the engine."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.multiply(2, act.Sigmoid().value(z), out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.multiply(2, act.Sigmoid().derivative(z, a / 2), out=out)


class HasDouble:
    """The same, from a class that is no activation."""

    value, derivative = Doubled.value, Doubled.derivative


class Mixed(HasDouble, act.Sigmoid):
    pass


@pytest.mark.parametrize("sigma", [Doubled(), Mixed()], ids=name)
def test_a_derived_activation_has_its_own_values(sigma: Activation) -> None:
    check_activation(sigma, np.random.default_rng(0)).require()
    for derived in (sigma, type("Further", (type(sigma),), {})()):
        net, plain = network([3, 4, 2], [derived, act.Tanh()]), network([3, 4, 2], [act.Sigmoid(), act.Tanh()])
        x, _ = batch(net, 5)
        net.forward(x)
        plain.forward(x)
        assert np.array_equal(net.layers[0].a, 2 * plain.layers[0].a)


class Raised(act.Relu):
    """Only its values are others than those of what it is derived from."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.add(act.Relu().value(z), 1, out=out)


def test_a_rectifier_that_is_raised_has_the_slope_of_one() -> None:
    check_activation(Raised(), np.random.default_rng(0)).require()


@dataclass(frozen=True)
class DiagonalSoftmax(act.Softmax):
    """The classic mistake: σ(1 − σ), as if softmax acted on each unit alone."""

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        return np.multiply(a * (1 - a), dC_da, out=out)


def test_a_softmax_without_its_off_diagonal_is_found() -> None:
    checks = {c.part: c.passed for c in check_activation(DiagonalSoftmax(), np.random.default_rng(0)).checks}
    assert [part for part, passed in checks.items() if not passed] == ["DiagonalSoftmax.pull_back"]
    assert len(checks) == 2
    net = network([3, 4], [DiagonalSoftmax()])
    x, y = batch(net, 5)
    with pytest.raises(AssertionError, match=r"layer 1 \(DiagonalSoftmax\) ∂C/∂a_in"):
        check_network(net, x, y, costs.HalfSquaredError(), np.random.default_rng(0)).require()


@dataclass(frozen=True)
class FalseCollapse(costs.SquaredError):
    """Claims δ^L = a − y with sigmoid outputs, which holds for the cross-entropy only."""

    collapses_with: ClassVar[type[Activation] | None] = act.Sigmoid

    def value_from_z(self, z: Array, y: Array) -> Array:
        return self.value(act.Sigmoid().value(z), y)


def test_a_false_claim_of_collapse_is_found() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Sigmoid()])
    x, y = batch(net, 5)
    report = check_network(net, x, y, FalseCollapse(), np.random.default_rng(0))
    assert [check.part for check in report.checks if not check.passed] == ["FalseCollapse.delta"]


@pytest.mark.parametrize("sigma", ANALYTIC, ids=name)
def test_analytic_parts_are_checked_by_complex_steps(sigma: Activation) -> None:
    rng = np.random.default_rng(0)
    assert {check.method for check in check_activation(sigma, rng).checks} == {"complex step"}
    net = network([3, 4, 2], [sigma, sigma])
    x, y = batch(net, 5)
    assert {c.method for c in check_network(net, x, y, costs.SquaredError(), rng).checks} == {"complex step"}


@pytest.mark.parametrize(
    "cost", [costs.SquaredError(), costs.HalfSquaredError(), costs.CrossEntropy(), costs.LogLikelihood()], ids=name
)
def test_gradients_off_by_a_little_are_found(cost: costs.Cost) -> None:
    class Steeper(costs.Cost):
        def value(self, a: Array, y: Array) -> Array:
            return cost.value(a, y)

        def gradient(self, a: Array, y: Array) -> Array:
            return cost.gradient(a, y) * 1.0001

    rng = np.random.default_rng(1)
    a, y = rng.uniform(0.1, 0.9, (3, 8)), rng.uniform(0, 1, (3, 8))
    with pytest.raises(AssertionError, match=r"Steeper\.gradient"):
        check_cost(Steeper(), a, y, rng).require()


def test_a_gradient_that_is_not_a_number_fails() -> None:
    class Empty(act.Tanh):
        def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
            return np.multiply(z, np.nan, out=out)

    assert not check_activation(Empty(), np.random.default_rng(0)).passed


def test_directional_derivatives_by_hand() -> None:
    x, v = np.array([0.3, -1.2, 2.0]), np.array([1.0, 2.0, -0.5])
    exact, method = directional_derivative(np.sin, x, v)
    assert method == "complex step"
    assert np.abs(exact - np.cos(x) * v).max() < 1e-15
    rough, method = directional_derivative(np.abs, x, v)  # |z| is not analytic: the complex step is found out
    assert method == "central differences"
    assert np.abs(rough - np.sign(x) * v).max() < 1e-9


def test_the_network_under_check_keeps_its_parameters() -> None:
    net = network([3, 4, 2], [act.Relu(), act.Identity()], (2,))
    x, y = batch(net, 5)
    before = net.theta.copy()
    check_network(net, x, y, costs.SquaredError(), np.random.default_rng(0))
    assert np.array_equal(net.theta, before)


def test_a_report_passes_when_all_checks_do() -> None:
    good, bad = Check("a", "complex step", 1e-11, 1e-10), Check("b", "complex step", 2e-10, 1e-10)
    assert Report((good,)).require().passed
    with pytest.raises(
        AssertionError, match=r"^wrong gradient in b: relative error 2\.00e-10 > 1e-10 \(complex step\)$"
    ):
        Report((good, bad)).require()
