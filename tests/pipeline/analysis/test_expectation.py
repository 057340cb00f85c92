"""The expectation of a run: theory's profile over the run's own examples."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from support.configs import config

from engine.theory import profile
from pipeline.analysis.expectation import EXAMPLES, expect
from pipeline.training.prepare import prepare_run


@pytest.mark.parametrize("data", ["digits", "iris", "breast_cancer"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu"])
@pytest.mark.thorough
def test_groups_of_examples_give_the_profile_of_all_examples(activation: str, data: str) -> None:
    run = prepare_run(
        config(
            f"activation={activation}", f"data={data}", "architecture=deep", "architecture.depth=4", "init=he_normal"
        )
    )
    fans = list(pairwise(run.sizes))
    weights, biases = run.config.init.weights, run.config.init.biases
    x = run.data.x[run.data.train[0, :EXAMPLES]]
    exact = profile(
        run.sizes,
        run.config.activations(len(fans)),
        [weights.variance(m, n) for m, n in fans],
        [biases.variance(m, n) for m, n in fans],
        np.square(x).sum(axis=1),
    )
    expectation = expect(run)
    assert expectation is not None
    np.testing.assert_allclose(expectation.profile.log10_delta(), exact.log10_delta(), rtol=0, atol=0.002)
    np.testing.assert_allclose(expectation.profile.z_mean_square[0], exact.z_mean_square[0], rtol=0.01)
