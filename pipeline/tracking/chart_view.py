"""The view that a sweep's link opens, in the format of MLflow's "share" feature.

MLflow keeps a shared view of the runs page as an experiment tag ``mlflow.sharedViewState.KEY`` (JSON of
the page's state) and opens it with ``?viewStateShareKey=KEY``. Without a view the page shows only the first ten runs
of a sweep, in hundreds of charts sorted by name, on linear axes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.tracking.metric_names import by_layer_name

TAG = "mlflow.sharedViewState."


def path_of(experiment_id: str, key: str) -> str:
    """Return the path of the page that opens a shared view in any browser."""
    page = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    return f"{page}&compareRunsMode=CHART&viewStateShareKey={key}"


def sweep_view(run_filter: str, score: str) -> str:
    """Return the page's state as JSON: all runs that pass the filter, the most important charts first.

    Args:
        run_filter: An MLflow search filter.
        score: The metric of quality, "accuracy/test" or "r2/test".
    """
    sections = {
        "log₁₀ norm, x: layer": [
            _line("δ, start", f"{by_layer_name('delta_rms')}/start"),
            _line("δ, end", f"{by_layer_name('delta_rms')}/end"),
            _line("∂C/∂W, start", f"{by_layer_name('gradient_norm')}/start"),
            _line("∂C/∂W, end", f"{by_layer_name('gradient_norm')}/end"),
        ],
        "Learning, x: step": [
            _line(score, score),
            _line("cost/train", "cost/train"),
            _line("δ layer 1", "delta_rms/layer_01", "log"),
            _line("∂C/∂W layer 1", "gradient_norm/layer_01", "log"),
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


def _line(title: str, metric: str, scale: str = "linear") -> dict[str, Any]:
    """Return a chart of one metric.

    MLflow shows about 13 characters of a title. On this page it takes the display name for the title only if a chart
    has the key ``nodeLevelSystemMetricConfiguration``; else the title is the metric's key.
    """
    return {
        "type": "LINE",
        "displayName": title,
        "nodeLevelSystemMetricConfiguration": {},
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
