"""Names of metrics: a name that is logged is allowed, another is refused."""

from __future__ import annotations

from typing import Any

import pytest
from support.configs import config

from pipeline.analysis.expectation import expect
from pipeline.errors import ConfigError
from pipeline.tracking.metrics import MetricLogger, check_metric
from pipeline.tracking.run_logger import RunLogger
from pipeline.training.divergence import Divergence
from pipeline.training.loop import Callbacks, train
from pipeline.training.prepare import prepare_run

SMALL = ("experiment=smoke", "architecture.depth=4", "data.subset=100", "epochs=1", "probes=standard")
EXPLODING = ("init=gaussian", "init.weights.std=1e60", "activation=relu", "optimizer.learning_rate=1e80")


class NullClient:
    """A store that accepts everything."""

    def log_points(self, *_: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize("overrides", [(), ("replicates=1",), EXPLODING], ids=["replicates", "single", "exploding"])
def test_metric_names_that_are_logged_are_allowed(overrides: tuple[str, ...]) -> None:
    run, divergences = prepare_run(config(*SMALL, *overrides)), list[Divergence]()
    keys: set[str] = set()

    class Keys(RunLogger):
        def metric(self, key: str, value: float, step: int = 0) -> bool:
            keys.add(key)
            return True

    logger = MetricLogger(Keys(NullClient(), "run"), run.config.replicates, divergences, expect(run))
    for record in train(run, Callbacks(on_divergence=logger.diverged)):
        logger.record(record)
    assert len(keys) > 50
    assert bool(divergences) is (overrides == EXPLODING)
    for key in keys:
        check_metric(key, run, "search.metric")


def test_metric_name_that_is_not_logged_is_refused() -> None:
    run = prepare_run(config(*SMALL))
    with pytest.raises(
        ConfigError, match=r"search\.metric=delta_rsm: no run of this config logs it; did you mean delta"
    ):
        check_metric("delta_rsm", run, "search.metric")
    for key in ("delta_rms/layer_99", "interval_low/accuracy", "overhead/nothing", ""):
        with pytest.raises(ConfigError, match="no run of this config logs it"):
            check_metric(key, run, "search.metric")
