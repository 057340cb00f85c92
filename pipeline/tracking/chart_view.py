"""The view that a sweep's link opens, in the format of MLflow's "share" feature.

MLflow keeps a shared view of the runs page as an experiment tag ``mlflow.sharedViewState.KEY`` (JSON of
the page's state) and opens it with ``?viewStateShareKey=KEY``. Without a view the page shows only the first ten runs
of a sweep, in hundreds of charts sorted by name, on linear axes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

TAG = "mlflow.sharedViewState."


def sweep_view(run_filter: str, score: str) -> str:
    """Return the page's state as JSON: all runs that pass the filter, the most important charts first.

    Args:
        run_filter: An MLflow search filter.
        score: The metric of quality, "accuracy/test" or "r2/test".
    """
    sections = {
        "log₁₀ norm against layer": [
            _line("log10_delta_rms_by_layer/start"),
            _line("log10_delta_rms_by_layer/end"),
            _line("log10_gradient_norm_by_layer/start"),
            _line("log10_gradient_norm_by_layer/end"),
        ],
        "Learning": [
            _line(score),
            _line("cost/train"),
            _line("delta_rms/layer_01", "log"),
            _line("gradient_norm/layer_01", "log"),
        ],
    }
    return json.dumps(
        {
            "searchFilter": run_filter,
            "orderByKey": "attributes.start_time",
            "orderByAsc": True,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "runsHiddenMode": "SHOW_ALL",
            "isAccordionReordered": True,
            "compareRunSections": [
                {"uuid": f"gradvitals-{i}", "name": name, "display": True, "isReordered": True, "columns": 2}
                for i, name in enumerate(sections)
            ],
            "compareRunCharts": _numbered(list(sections.values())),
        },
        ensure_ascii=False,
    )


def _numbered(sections: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the charts of all sections with their ids."""
    return [
        {**chart, "uuid": f"gradvitals-{i}-{j}", "metricSectionId": f"gradvitals-{i}"}
        for i, charts in enumerate(sections)
        for j, chart in enumerate(charts)
    ]


def _line(metric: str, scale: str = "linear") -> dict[str, Any]:
    return {
        "type": "LINE",
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "scaleType": scale,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
    }
