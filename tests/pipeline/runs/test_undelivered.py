"""Runs whose store is away at their end."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from support.commands import invoke
from support.stores import opened, uri

from pipeline.tracking.retry import VARIABLE


@pytest.mark.thorough
def test_run_whose_store_is_away_at_its_end_resumes_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command trains the steps after the checkpoint only, and the store then has every value once."""

    def away(*arguments: object, **keywords: object) -> None:
        raise ConnectionRefusedError("Connection refused")

    store = opened(tmp_path)
    command = ("run", "epochs=3", "data.subset=100", "checkpoints.seconds=0", f"tracking.uri={uri(tmp_path)}")
    with monkeypatch.context() as patched:
        patched.setenv(VARIABLE, "0.2")
        for name in ("log_batch", "set_terminated"):
            patched.setattr(MlflowClient, name, away)
        assert invoke(*command).code == 1
    (run,) = store.search()
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})
    folder = store.sidecar_dir("checkpoints") / run.info.run_id
    assert list(folder.glob("state-*.npz"))
    done = invoke(*command)
    assert done.code == 0, done.err
    run = store.find(run.info.run_id)
    assert run.info.status == "FINISHED"
    history = store.client.get_metric_history(run.info.run_id, "gradient_norm/layer_01")
    steps = [point.step for point in history]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    (log,) = [a.path for a in store.client.list_artifacts(run.info.run_id) if a.path.startswith("run.")]
    text = Path(store.client.download_artifacts(run.info.run_id, log, str(tmp_path))).read_text()
    assert "resumed from step" in text
    assert "resumed from step 0" not in text
    assert not folder.exists()
