"""Shared by all tests."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import InputDefault
from hydra.core.plugins import Plugins
from hypothesis import is_hypothesis_test, settings
from support.quick import once_of_each_kind

from pipeline.paths import CONF
from pipeline.tracking.store import RunLogger

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


FEWER = 3  # of hypothesis' examples, a run of the default tier draws one in so many


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    whole = any(os.environ.get(v) for v in TIERS["thorough"])
    for item in items:
        if isinstance(item, pytest.Function) and is_hypothesis_test(item.function) and not whole:
            draw_fewer(item.function)
        if module := uses_what_its_module_shares(item):
            item.add_marker(pytest.mark.xdist_group(module))
    for tier, variables in TIERS.items():
        if any(os.environ.get(v) for v in variables):
            continue
        reason = f"{tier}: runs with {' or '.join(f'{v}=1' for v in variables)}"
        for item in items:
            if tier in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def draw_fewer(test: Any) -> None:
    """As ``settings`` above it would; once, for the cases of a parametrised test are one function."""
    if not hasattr(test, "drawn_fewer"):
        old = test._hypothesis_internal_use_settings
        test._hypothesis_internal_use_settings = settings(old, max_examples=max(old.max_examples // FEWER, 5))
        test.drawn_fewer = True


def uses_what_its_module_shares(item: pytest.Item) -> str | None:
    """The file of a test with a fixture that is made once a module: one process runs them all, and makes it once."""
    fixtures = getattr(item, "_fixtureinfo", None)
    found = fixtures.name2fixturedefs.values() if fixtures is not None else ()
    return item.path.stem if any(many[-1].scope == "module" for many in found) else None


@pytest.fixture(scope="session", autouse=True)
def _hydra_reads_each_file_once() -> Iterator[None]:
    """Hydra reads its own files and ours anew for each config; here once, and it gets copies.

    It also makes a map for interpolations at each entry of a defaults list; here where there is an interpolation. Both
    take most of its time. CI leaves it as it is.
    """
    if os.environ.get(ALL):
        yield
        return
    Plugins.instance()  # finds the kinds of sources
    its, ours = (SourcesRegistry.instance().resolve(scheme) for scheme in ("pkg", "file"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("is_config", "is_group", "load_config"):
            patch.setattr(its, name, _remembered(getattr(its, name), lambda source: True))
        patch.setattr(ours, "load_config", _remembered(ours.load_config, lambda source: Path(source.path) == CONF))
        make, resolve = defaults_list._create_interpolation_map, InputDefault._resolve_interpolation_impl
        patch.setattr(defaults_list, "_create_interpolation_map", lambda *given: lambda: make(*given))
        patch.setattr(
            InputDefault, "_resolve_interpolation_impl", lambda self, known, value: resolve(self, known(), value)
        )
        yield


def _remembered(method: Callable[..., Any], fixed: Callable[[Any], bool]) -> Callable[..., Any]:
    """A method of a source of configs that asks the disk once for each path, where the files are fixed."""
    known: dict[tuple[str, str], Any] = {}

    def remembered(self: Any, config_path: str) -> Any:
        if not fixed(self):
            return method(self, config_path)
        if (self.path, config_path) not in known:
            known[self.path, config_path] = method(self, config_path)
        return copy.deepcopy(known[self.path, config_path])

    return remembered


@pytest.fixture(scope="session", autouse=True)
def _pictures_of_runs_are_drawn_once_of_each_kind() -> Iterator[None]:
    """Draw the figures of runs once for each name, because drawing takes longer than most runs. CI draws all."""
    if os.environ.get(ALL):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLogger, "figure", once_of_each_kind(RunLogger.figure))
        yield


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress bars, and no tracking settings of the person who runs the tests."""
    monkeypatch.setenv("CI", "true")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
