"""Shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings

from pipeline import address, tracking

# CI draws the same examples every time; people draw new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


SLOW, ALL = "GRADVITALS_SLOW", "GRADVITALS_REQUIRE_ALL"
TIERS = {  # marker -> the variables that let its tests run
    "thorough": (ALL, SLOW),  # a minute of real processes each, killed and begun again: CI has the time
    "slow": (SLOW,),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help=f"run the slow tests too, as {SLOW}=1 does")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--slow"):
        os.environ[SLOW] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for tier, variables in TIERS.items():
        if any(os.environ.get(v) for v in variables):
            continue
        reason = f"{tier}: runs with {' or '.join(f'{v}=1' for v in variables)}"
        for item in items:
            if tier in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _new_stores_are_copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes seconds to make a database; in this process it is asked once, and new stores are copies."""
    make, template = tracking._make_database, tmp_path_factory.mktemp("template") / "empty.db"

    def copy(uri: str) -> None:
        path = address.database(uri)
        if path is not None and path.parent.is_dir() and not path.exists():
            if not template.exists():
                make(f"sqlite:///{template}")
            shutil.copyfile(template, path)
        else:
            make(uri)

    tracking._make_database = copy
    yield
    tracking._make_database = make


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress bars, and no tracking settings of the person who runs the tests."""
    monkeypatch.setenv("CI", "true")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
