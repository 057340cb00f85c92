"""The figures of a search, drawn by Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import optuna
from matplotlib.figure import Figure

HISTORY, PARAMETERS, IMPORTANCES = "search.png", "search_parameters.png", "search_importances.png"


def search_figures(study: optuna.Study, keys: Sequence[str], label: str) -> dict[str, Figure]:
    """Return the figures of a study by file name: objective by trial, over its main keys, and the keys' importance.

    Args:
        study: The study; without a finished trial there are no figures.
        keys: The searched keys, the most important one first.
        label: Name of the objective.
    """
    from optuna.visualization import matplotlib as plots

    if not study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        return {}
    plt.switch_backend("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        figures = {HISTORY: _figure(plots.plot_optimization_history(study, target_name=label))}
        over = plots.plot_contour if len(keys) > 1 else plots.plot_slice
        figures[PARAMETERS] = _figure(over(study, params=list(keys[:2]), target_name=label))
        if len(keys) > 1:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            try:
                axes = plots.plot_param_importances(study, evaluator=evaluator, target_name=label)
            except (ValueError, RuntimeError):  # fewer than two values, or all the same
                pass
            else:
                figures[IMPORTANCES] = _figure(axes)
    return figures


def _figure(axes: Any) -> Figure:
    """Return the figure of Optuna's axes, large enough for its labels, without pyplot's reference to it."""
    figure: Figure = axes.figure
    figure.set_size_inches(9, 5)
    figure.set_layout_engine("tight")
    plt.close(figure)
    return figure
