"""Options, tiers and fixtures of all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from support.examples import FULL_TIER, examples

from pipeline.wording import STARTED_BY

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.pop(STARTED_BY, None)  # of ``make test``; messages are those of gradvitals

# Settings of the user that runs would obey. Fixtures of modules must not see them either.
SETTINGS = (
    "GRADVITALS_STORE_PATIENCE",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
)
SLOW = "GRADVITALS_SLOW"
TIERS = {  # marker -> the variables that let its tests run
    "thorough": FULL_TIER,  # about a minute each: real processes, killed and restarted
    "slow": (SLOW,),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help=f"run the slow tests too, as {SLOW}=1 does")


def pytest_configure(config: pytest.Config) -> None:
    for name in SETTINGS:
        os.environ.pop(name, None)
    if config.getoption("--slow"):
        os.environ[SLOW] = "1"
    # CI draws the same examples every time; people draw new ones.
    settings.register_profile("ci", max_examples=examples(100), derandomize=True)
    settings.register_profile("local", max_examples=examples(100))
    settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for tier, variables in TIERS.items():
        if any(os.environ.get(v) for v in variables):
            continue
        reason = f"{tier}: runs with {' or '.join(f'{v}=1' for v in variables)}"
        for item in items:
            if tier in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide progress bars."""
    monkeypatch.setenv("CI", "true")
