"""A sweep on PostgreSQL behind a tracking server that fails: afterwards the store equals that of a local sweep."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from support.commands import NO_FIGURES, invoke, sweep_command
from support.configs import require
from support.servers import CuttingProxy, Postgres, Server, postgres_binaries, until
from support.stores import assert_same, content, opened, uri

from pipeline.paths import PROJECT
from pipeline.tracking.store import Store, TrackingConfig, download

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("tracking_server")]
SWEEP = (
    "experiment=depth", "data=iris", "epochs=40", "architecture.depth=2", "activation=relu,tanh",
    "optimizer.learning_rate=0.01,0.03", "replicates=2", "schedule=every", "schedule.n=10", NO_FIGURES,
)  # fmt: skip
CELLS = 4
RUNS = "FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = %s"


class Shared(NamedTuple):
    """A tracking server on PostgreSQL, and the folder of a local store with the undisturbed sweep."""

    server: Server
    postgres: Postgres
    local: Path
    sweep_id: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    require(postgres_binaries() is not None, "PostgreSQL is not installed")
    local = tmp_path_factory.mktemp("local")
    done = sweep_command(*SWEEP, f"tracking.uri={uri(local)}")
    assert done.code == 0, done.text
    postgres = Postgres()
    server = Server(postgres.uri, tmp_path_factory.mktemp("server"))
    try:
        postgres.create()
        postgres.start()
        server.start()
        yield Shared(server, postgres, local, opened(local).search("tags.kind = 'sweep'")[0].data.tags["sweep_summary"])
    finally:
        server.kill()
        postgres.remove()


def check(shared: Shared, experiment: str, folder: Path) -> None:
    """Assert that an experiment holds each cell once and complete, and equals the local sweep."""
    store = Store.open(TrackingConfig(shared.server.uri, experiment))
    rows = query(shared, f"SELECT status, runs.lifecycle_stage {RUNS}", experiment)
    assert Counter(rows) == {("FINISHED", "active"): CELLS + 1}  # the sweep has a run of its own
    assert query(shared, "SELECT key FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1") == []
    assert_same(content(shared.local), content(folder, shared.server.uri, experiment))
    assert files(opened(shared.local), folder / "a") == files(store, folder / "b")


def query(shared: Shared, statement: str, *values: str) -> list[tuple[object, ...]]:
    """Return the rows of a statement in the server's database."""
    import psycopg

    with closing(psycopg.connect(shared.postgres.uri.replace("+psycopg", ""))) as database:
        return database.execute(statement.encode(), values).fetchall()


def files(store: Store, folder: Path) -> dict[str, bytes]:
    """Return the bytes of each run's records, by the run's name."""
    contents = {}
    for run in store.search("tags.kind = 'run'"):
        (folder / run.info.run_id).mkdir(parents=True)
        path = download(store, run.info.run_id, "records.parquet", folder / run.info.run_id)
        contents[str(run.info.run_name)] = path.read_bytes()
    assert len(contents) == CELLS
    return contents


def test_sweep_survives_a_server_that_is_killed_for_20_seconds(shared: Shared, tmp_path: Path) -> None:
    """One network has reached the store, and others have not, when the server is killed."""
    command = [sys.executable, "-m", "pipeline", "sweep", "--jobs", "2", "--no-stacks", *SWEEP]
    command += [f"tracking.uri={shared.server.uri}", "tracking.experiment=killed"]
    Store.open(TrackingConfig(shared.server.uri, "killed"))
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            until(lambda: query(shared, f"SELECT 1 {RUNS} AND status = 'RUNNING'", "killed") != [], "a run")
            shared.server.kill()
            assert len(query(shared, f"SELECT 1 {RUNS} AND status = 'FINISHED'", "killed")) < CELLS
            time.sleep(20)
            shared.server.start()
            output, _ = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "the store does not answer (connection refused)" in output
    assert "the store answers again, after " in output
    check(shared, "killed", tmp_path)


@pytest.mark.parametrize("with_length", [True, False])
def test_sweep_survives_replies_that_are_cut(shared: Shared, with_length: bool, tmp_path: Path) -> None:
    """Every kind of call that a sweep makes is carried out, and its reply is cut in the middle, twice."""
    proxy = CuttingProxy(shared.server.port)
    proxy.with_length = with_length
    experiment = f"cut {with_length}"
    calls = ("runs/create", "runs/log-batch", "runs/update", "runs/search", "runs/log-inputs", "artifacts/artifacts")
    proxy.cuts = dict.fromkeys(calls, 2) | {"set-experiment-tag": 1, "experiments/create": 1}
    try:
        done = sweep_command(*SWEEP, f"tracking.uri={proxy.uri}", f"tracking.experiment={experiment}")
    finally:
        proxy.close()
    assert done.code == 0, done.text
    assert set(proxy.cuts.values()) == {0}, proxy.cuts
    check(shared, experiment, tmp_path)


def test_export_of_a_machine_without_a_network_is_imported_once(shared: Shared, tmp_path: Path) -> None:
    """The machine logs to a file and exports it; another one imports it, over replies that are cut."""
    exported, experiment = tmp_path / "exported", "imported"
    done = invoke("export", "--sweep", shared.sweep_id, "--to", str(exported), "--uri", uri(shared.local))
    assert done.code == 0, done.err
    proxy = CuttingProxy(shared.server.port)
    proxy.cuts = {"runs/create": 1, "runs/log-batch": 2, "artifacts/artifacts": 1, "runs/update": 1}
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
            for new in (CELLS, 0):
                done = invoke("import", "--from", str(exported), "--uri", proxy.uri)
                assert done.code == 0, done.err
                assert f"{CELLS} runs, {new} of them new" in done.out
    finally:
        proxy.close()
    assert set(proxy.cuts.values()) == {0}, proxy.cuts
    store = Store.open(TrackingConfig(shared.server.uri, experiment))
    assert Counter(run.info.status for run in store.search()) == {"FINISHED": CELLS + 1}
    assert query(shared, "SELECT key FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1") == []
    mine, theirs = content(shared.local), content(tmp_path, shared.server.uri, experiment)
    assert {name: run[1] for name, run in mine.items()} == {name: run[1] for name, run in theirs.items()}
    assert files(opened(shared.local), tmp_path / "a") == files(store, tmp_path / "b")
