"""The gradient checker: planted faults are detected and named, correct parts pass by the complex step."""

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
    """Layer with one gradient multiplied by a factor."""

    part = ""
    factor: float | Array = 1.0

    def backward_from(self, delta: Array) -> None:
        super().backward_from(delta)
        if self.part.startswith("d"):
            getattr(self, self.part)[...] *= self.factor

    def input_gradient(self) -> Array:
        return super().input_gradient() * (self.factor if self.part == "a_in" else 1.0)

    def twin(self) -> Faulty:
        twin = Faulty(self.n_in, self.n_out, self.sigma)
        twin.part, twin.factor = self.part, self.factor
        return twin


def faulty(correct: Network, number: int, part: str, factor: float | Array) -> Network:
    """Return the network with a fault in one layer."""
    blocks: list[Block] = [block.twin() for block in correct.blocks]
    wrong = Faulty(blocks[number - 1].n_in, blocks[number - 1].n_out, correct.layers[number - 1].sigma)
    wrong.part, wrong.factor = part, factor
    blocks[number - 1] = wrong
    return Network(blocks, correct.ensemble, theta=correct.theta)


@pytest.mark.parametrize("ensemble", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("part", ["dW", "db", "a_in"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_check_network_names_exactly_the_wrong_part(number: int, part: str, ensemble: tuple[int, ...]) -> None:
    """A relative error of 1e-6 is detected, and every other part passes."""
    correct = network([3, 5, 4, 2], [act.Tanh(), act.Sigmoid(), act.Softmax()], ensemble)
    net = faulty(correct, number, part, 1 + 1e-6)
    x, y = batch(net, 6)
    rng = np.random.default_rng(0)
    report = check_network(net, x, y, costs.LogLikelihood(), rng)
    sigma = type(net.layers[number - 1].sigma).__name__
    wrong = f"layer {number} ({sigma}) ∂C/∂{part.removeprefix('d')}"
    assert [check.part for check in report.checks if not check.passed] == [wrong]
    with pytest.raises(AssertionError, match=rf"^wrong gradient in {re.escape(wrong)}: relative error 1\."):
        report.require()
    assert check_network(correct, x, y, costs.LogLikelihood(), rng).require().checks[0].part == "network ∂C/∂θ"


def test_check_network_detects_a_fault_in_one_member_of_a_stack() -> None:
    factors = np.array([1.0, 1.0001, 1.0])[:, None, None]
    net = faulty(network([3, 4, 2], [act.Tanh(), act.Identity()], (3,)), 2, "dW", factors)
    x, y = batch(net, 5)
    report = check_network(net, x, y, costs.SquaredError(), np.random.default_rng(0))
    assert [check.part for check in report.checks if not check.passed] == ["layer 2 (Identity) ∂C/∂W"]


class FixedStatistics(LayerNorm):
    """Layer norm without the dependence of the mean and variance on the input."""

    def backward(self, dC_da: Array) -> None:
        super().backward(dC_da)
        np.divide(dC_da, self._std, out=self._dC_da_in)

    def twin(self) -> FixedStatistics:
        return FixedStatistics(self.n_in, self.epsilon, self.learned)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a residual block"])
def test_check_network_names_a_wrong_user_block(inside: bool) -> None:
    """The residual block around it is not checked."""
    wrong: Block = FixedStatistics(5, 1e-5, learned=False)
    if inside:
        wrong = Residual([wrong, Dense(5, 5, act.Tanh())])
    net = Network([Dense(3, 5, act.Tanh()), wrong, Dense(5, 2, act.Softmax())])
    net.theta[...] = np.random.default_rng(0).standard_normal(net.theta.shape)
    report = check_network(net, *batch(net, 6), costs.LogLikelihood(), np.random.default_rng(0))
    assert [check.part for check in report.checks if not check.passed] == ["FixedStatistics ∂C/∂a_in"]


@pytest.mark.parametrize("sigma", ELEMENTWISE, ids=name)
def test_check_activation_detects_a_relative_error_of_1e_4(sigma: Activation) -> None:
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
    """2σ, derived from an activation of the engine."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.multiply(2, act.Sigmoid().value(z), out=out)

    def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
        return np.multiply(2, act.Sigmoid().derivative(z, a / 2), out=out)


class HasDouble:
    """2σ, from a class that is no activation."""

    value, derivative = Doubled.value, Doubled.derivative


class Mixed(HasDouble, act.Sigmoid):
    pass


@pytest.mark.parametrize("sigma", [Doubled(), Mixed()], ids=name)
def test_derived_activation_uses_its_own_value(sigma: Activation) -> None:
    check_activation(sigma, np.random.default_rng(0)).require()
    for derived in (sigma, type("Further", (type(sigma),), {})()):
        net, plain = network([3, 4, 2], [derived, act.Tanh()]), network([3, 4, 2], [act.Sigmoid(), act.Tanh()])
        x, _ = batch(net, 5)
        net.forward(x)
        plain.forward(x)
        assert np.array_equal(net.layers[0].a, 2 * plain.layers[0].a)


class Raised(act.Relu):
    """ReLU with another value and the inherited derivative."""

    def value(self, z: Array, out: Array | None = None) -> Array:
        return np.add(act.Relu().value(z), 1, out=out)


def test_derived_activation_may_inherit_the_derivative() -> None:
    check_activation(Raised(), np.random.default_rng(0)).require()


@dataclass(frozen=True)
class DiagonalSoftmax(act.Softmax):
    """Softmax with the derivative σ(1 − σ) of an element-wise activation."""

    def pull_back(self, z: Array, a: Array, dC_da: Array, out: Array | None = None) -> Array:
        return np.multiply(a * (1 - a), dC_da, out=out)


def test_check_activation_detects_a_diagonal_softmax() -> None:
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


def test_check_network_detects_a_false_collapse() -> None:
    net = network([3, 4, 2], [act.Tanh(), act.Sigmoid()])
    x, y = batch(net, 5)
    report = check_network(net, x, y, FalseCollapse(), np.random.default_rng(0))
    assert [check.part for check in report.checks if not check.passed] == ["FalseCollapse.delta"]


@pytest.mark.parametrize("sigma", ANALYTIC, ids=name)
def test_analytic_parts_are_checked_by_complex_step(sigma: Activation) -> None:
    rng = np.random.default_rng(0)
    assert {check.method for check in check_activation(sigma, rng).checks} == {"complex step"}
    net = network([3, 4, 2], [sigma, sigma])
    x, y = batch(net, 5)
    assert {c.method for c in check_network(net, x, y, costs.SquaredError(), rng).checks} == {"complex step"}


@pytest.mark.parametrize(
    "cost", [costs.SquaredError(), costs.HalfSquaredError(), costs.CrossEntropy(), costs.LogLikelihood()], ids=name
)
def test_check_cost_detects_a_relative_error_of_1e_4(cost: costs.Cost) -> None:
    class Steeper(costs.Cost):
        def value(self, a: Array, y: Array) -> Array:
            return cost.value(a, y)

        def gradient(self, a: Array, y: Array) -> Array:
            return cost.gradient(a, y) * 1.0001

    rng = np.random.default_rng(1)
    a, y = rng.uniform(0.1, 0.9, (3, 8)), rng.uniform(0, 1, (3, 8))
    with pytest.raises(AssertionError, match=r"Steeper\.gradient"):
        check_cost(Steeper(), a, y, rng).require()


def test_nan_gradient_fails_the_check() -> None:
    class NanTanh(act.Tanh):
        def derivative(self, z: Array, a: Array, out: Array | None = None) -> Array:
            return np.multiply(z, np.nan, out=out)

    assert not check_activation(NanTanh(), np.random.default_rng(0)).passed


def test_directional_derivative_equals_the_closed_form() -> None:
    x, v = np.array([0.3, -1.2, 2.0]), np.array([1.0, 2.0, -0.5])
    exact, method = directional_derivative(np.sin, x, v)
    assert method == "complex step"
    assert np.abs(exact - np.cos(x) * v).max() < 1e-15
    rough, method = directional_derivative(np.abs, x, v)  # |z| is not analytic: the complex step is rejected
    assert method == "central differences"
    assert np.abs(rough - np.sign(x) * v).max() < 1e-9


def test_check_network_does_not_change_parameters() -> None:
    net = network([3, 4, 2], [act.Relu(), act.Identity()], (2,))
    x, y = batch(net, 5)
    before = net.theta.copy()
    check_network(net, x, y, costs.SquaredError(), np.random.default_rng(0))
    assert np.array_equal(net.theta, before)


def test_report_passes_only_if_every_check_passes() -> None:
    good, bad = Check("a", "complex step", 1e-11, 1e-10), Check("b", "complex step", 2e-10, 1e-10)
    assert Report((good,)).require().passed
    with pytest.raises(
        AssertionError, match=r"^wrong gradient in b: relative error 2\.00e-10 > 1e-10 \(complex step\)$"
    ):
        Report((good, bad)).require()
