"""The small real tables that ship with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.data.table import Source, Table


@dataclass(frozen=True)
class ScikitLearn(Source):
    """A table bundled with scikit-learn. No download is needed.

    digits 1797 × 64, 10 classes (UCI optical digits); iris 150 × 4, 3; wine 178 × 13, 3; breast_cancer 569 × 30, 2;
    diabetes 442 × 10, regression.
    """

    name: Literal["digits", "iris", "wine", "breast_cancer", "diabetes"]

    def load(self, rng: np.random.Generator) -> Table:
        if self.name == "digits":
            return _digits()
        from sklearn import datasets  # slow to import

        x, y = getattr(datasets, f"load_{self.name}")(return_X_y=True)
        x = np.asarray(x, dtype=np.float64)
        if self.name == "diabetes":
            return Table(x, np.asarray(y, dtype=np.float64)[:, None], classes=None)
        return Table(x, np.asarray(y, dtype=np.int64), classes=int(y.max()) + 1)


def _digits() -> Table:
    """Read the digits from scikit-learn's folder: an import of scikit-learn takes longer than many short runs."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("data=digits: scikit-learn, which contains the digits, is not installed")
    values = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return Table(values[:, :-1], values[:, -1].astype(np.int64), classes=10)
