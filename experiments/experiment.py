"""Load an experiment: a folder with ``README.md``, ``claims.yaml`` and ``analysis.py``.

``claims.yaml`` is a :class:`experiments.claims.Description`. ``analysis.py`` defines two functions, and may define two
more:

    measured(results) -> Mapping[str, Estimate]             the measured numbers, by the claims' keys
    figure(results) -> Figure
    collect(slow) -> Sequence[Any]                          the results, in place of sweeps
    pages(results, command) -> Mapping[str, str | Figure]   files for ``--write``, by path in the project

The results are the finished cells of the sweeps (:class:`experiments.runner.Result`). The sweeps are files of the
config group ``experiment``, in ``conf`` or in a ``conf`` folder of the experiment.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pydantic
import yaml
from matplotlib.figure import Figure

from experiments.claims import Claim, Description
from pipeline.analysis.estimates import Estimate
from pipeline.config.instantiate import one_line
from pipeline.errors import ConfigError
from pipeline.paths import PROJECT

EXPERIMENTS = PROJECT / "experiments"


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment.

    Attributes:
        name: The name of the folder.
        folder: The folder.
        description: The content of ``claims.yaml``.
        measured: Returns the measured numbers by the claims' keys.
        figure: Returns the figure.
        collect: Returns the results in place of sweeps. None for an experiment with sweeps.
        pages: Returns the files to write. None if there are none.
    """

    name: str
    folder: Path
    description: Description
    measured: Callable[[Sequence[Any]], Mapping[str, Estimate]]
    figure: Callable[[Sequence[Any]], Figure]
    collect: Callable[[bool], Sequence[Any]] | None = None
    pages: Callable[[Sequence[Any], str], Mapping[str, str | Figure]] | None = None

    @property
    def config_dir(self) -> str | None:
        """The experiment's own config groups, or None."""
        own = self.folder / "conf"
        return str(own) if own.is_dir() else None

    def claims(self, slow: bool) -> tuple[Claim, ...]:
        """Return the claims to answer."""
        return self.description.claims + (self.description.slow_claims if slow else ())

    def sweeps(self, slow: bool) -> tuple[str, ...]:
        """Return the sweeps to run."""
        return self.description.sweeps + (self.description.slow if slow else ())


def names() -> list[str]:
    """Return the names of the project's experiments, sorted."""
    return sorted(path.parent.name for path in EXPERIMENTS.glob("*/claims.yaml"))


def load(name: str) -> Experiment:
    """Load an experiment.

    Args:
        name: The name of a folder of ``experiments``, or the path of any folder.

    Raises:
        ConfigError: The folder does not exist or is not an experiment.
    """
    folder = Path(name) if "/" in name else EXPERIMENTS / name
    if not (folder / "claims.yaml").is_file():
        raise ConfigError(
            f"NAME={name}: no such experiment; allowed: {', '.join(names())}, or a folder with claims.yaml"
        )
    try:
        raw = yaml.safe_load((folder / "claims.yaml").read_text(encoding="utf-8"))
        description = Description.model_validate(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise ConfigError(f"{name}/claims.yaml: is not readable YAML") from broken
    except pydantic.ValidationError as invalid:
        first = invalid.errors()[0]
        raise ConfigError(f"{name}/claims.yaml: {'.'.join(map(str, first['loc']))}: {first['msg']}") from invalid
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", folder.name):
        raise ConfigError(f"NAME={name}: a folder's name may have letters, digits, '_', '-' and '.' only")
    module = _import_analysis(folder, name)
    collect, pages = getattr(module, "collect", None), getattr(module, "pages", None)
    if bool(collect) == bool(description.sweeps):
        raise ConfigError(f"{name}: needs either sweeps in claims.yaml or collect(slow) in analysis.py")
    return Experiment(folder.name, folder, description, module.measured, module.figure, collect, pages)


def _import_analysis(folder: Path, name: str) -> ModuleType:
    path = folder / "analysis.py"
    spec = importlib.util.spec_from_file_location(f"experiments_{folder.name}_analysis", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{name}: has no analysis.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up by its name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as broken:
        raise ConfigError(f"{name}/analysis.py: cannot be imported ({one_line(broken)})") from broken
    for function in ("measured", "figure"):
        if not callable(getattr(module, function, None)):
            raise ConfigError(f"{name}/analysis.py: has no function {function}(results)")
    return module
