"""The tracking server: what it refuses, its secret and its users, and what it leaves closed (docs/security.md)."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from support.commands import invoke
from support.configs import require
from support.servers import Server, free_port, small_disk, until
from support.stores import empty, uri

from pipeline.errors import ConfigError
from pipeline.tracking.mlflow_server import ServerProcess
from pipeline.tracking.server import TrackingServer, prepare_tracking_server

pytestmark = pytest.mark.xdist_group("server")

TINY = ("run", "epochs=0", "data.subset=50", "probes=none")
HAS_AUTH = importlib.util.find_spec("flask_wtf") is not None
PASSWORD = "a password of tests"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--port", "0"), "port 0: must be in 1 ... 65535"),
        (("--port", "65536"), "port 65536: must be in 1 ... 65535"),
        (("--port", "http"), "--port"),
        (("--host", "nowhere.invalid"), "--host=nowhere.invalid: must be an IPv4 address or a name of this machine"),
        (("--host", "::1"), "--host=::1: must be an IPv4 address"),
        (("--host", "a" * 300), "must be an IPv4 address"),
        (("--host", "192.0.2.1", "--no-auth"), "--host=192.0.2.1 --port={port}: cannot be used ("),
        (("--host", "0.0.0.0"), "--host=0.0.0.0: the network could read and change all runs; add --auth (or --no-auth"),
        (("--host", ""), "--host=: the network could read and change all runs; add --auth"),
        (("--allowed-hosts", "*"), "--allowed-hosts=*: must be names such as login1"),
        (("--allowed-hosts", "a,b c"), "--allowed-hosts=b c: must be names such as login1"),
        (("--uri", "nonsense"), "tracking.uri=nonsense: must be sqlite:///FILE"),
        (("--uri", "http://127.0.0.1:5000"), "uri=http://127.0.0.1:5000: is a server already; allowed: a database"),
        (("--uri", "sqlite:///{folder}/notes.db"), "is not an SQLite database"),
        (("--uri", "sqlite:///{folder}/notes.db/x.db"), "notes.db/x.db: cannot be opened ("),
        (("--uri", "postgresql+psycopg://me:secret@127.0.0.1:{free}/runs"), "cannot be opened (connection refused)"),
        (("--uri", "sqlite:///{folder}/new.db", "--folder", "{folder}/notes.db"), "--folder="),
    ],
)
def test_wrong_settings_are_reported_in_one_line_and_nothing_is_written(
    argv: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.db").write_text("notes")
    places = {"folder": tmp_path, "port": free_port(), "free": free_port()}
    given = [text.format(**places) for text in argv]
    given += [] if "--port" in given else ["--port", str(places["port"])]
    given += [] if "--uri" in given else ["--uri", f"sqlite:///{tmp_path}/new.db"]
    done = invoke("server", *given)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says.format(**places) in done.err
    assert "secret" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.db"]


def test_port_of_another_program_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = invoke("server", "--port", str(port), "--uri", f"sqlite:///{tmp_path}/new.db")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: port {port}: cannot be used (Address already in use); give another\n"
    assert not list(tmp_path.iterdir())


def test_read_only_folder_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as mount:
        mount("ro")
        for given in (
            ("--uri", f"sqlite:///{tmp_path}/disk/new.db"),
            ("--uri", f"sqlite:///{tmp_path}/new.db", "--folder", f"{tmp_path}/disk/files"),
        ):
            done = invoke("server", "--port", str(free_port()), *given)
            assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
            assert "the store is read-only" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_store_with_local_artifacts_is_refused(tmp_path: Path) -> None:
    """Clients on other machines would write the artifacts to their own disks."""
    done = invoke("server", "--port", str(free_port()), "--uri", empty(uri(tmp_path)))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "are files of this machine; allowed: a new database" in done.err
    assert not [path.name for path in tmp_path.iterdir() if "secrets" in path.name]


@pytest.mark.parametrize("password", ["password", "short", "password1234"])
def test_weak_password_is_refused_and_not_shown(password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(HAS_AUTH, "Flask-WTF is not installed")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", password)
    done = invoke("server", "--auth", "--port", str(free_port()), "--uri", f"sqlite:///{tmp_path}/new.db")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: MLFLOW_AUTH_ADMIN_PASSWORD: must have 12 or more characters and not be MLflow's old default\n"
    )
    assert not list(tmp_path.iterdir())


def test_missing_package_for_authentication_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flask_wtf", None)
    done = invoke("server", "--auth", "--port", str(free_port()), "--uri", f"sqlite:///{tmp_path}/new.db")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --auth: needs the package Flask-WTF (pip install 'gradvitals[server]')\n"


def process(**changes: object) -> ServerProcess:
    """Return a server whose database has a password in its address."""
    settings = {"uri": "postgresql+psycopg://me:secret@db/runs", "artifacts": Path("/files"), "port": 5001} | changes
    return ServerProcess(**settings)  # type: ignore[arg-type]


def test_passwords_are_no_part_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """``ps`` shows commands to every user of a machine, and an environment to its owner only."""
    server = process(settings={"MLFLOW_FLASK_SERVER_SECRET_KEY": "secret"})
    assert "secret" not in " ".join(server.command()) + repr(server)
    assert server.environment()["MLFLOW_BACKEND_STORE_URI"] == server.uri
    assert TrackingServer(server).lines()[0] == "database postgresql+psycopg://me:***@db/runs, artifacts /files"


def test_settings_of_the_caller_do_not_open_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true"),
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true"),
        ("MLFLOW_DISABLE_TELEMETRY", "false"),
        ("MLFLOW_HOST", "0.0.0.0"),
        ("_MLFLOW_SERVER_ARTIFACT_ROOT", "/"),
        ("GUNICORN_CMD_ARGS", "--bind 0.0.0.0"),
        ("AWS_PROFILE", "mine"),
    ):
        monkeypatch.setenv(name, value)
    environment = process().environment()
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert not {"MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "MLFLOW_HOST", "GUNICORN_CMD_ARGS"} & set(environment)
    assert "_MLFLOW_SERVER_ARTIFACT_ROOT" not in environment
    assert environment["AWS_PROFILE"] == "mine"


def test_hosts_and_origins_are_those_of_the_names() -> None:
    alone = process().environment()
    assert alone["MLFLOW_SERVER_ALLOWED_HOSTS"] == "localhost,localhost:*,127.0.0.1,127.0.0.1:*"
    assert alone["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == ""
    shared = process(names=("login1", "10.0.0.7:8080"))
    assert shared.url == "http://login1:5001"
    environment = shared.environment()
    assert environment["MLFLOW_SERVER_ALLOWED_HOSTS"].endswith(",127.0.0.1:*,login1,login1:*,10.0.0.7:8080")
    assert environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == (
        "http://login1:5001,https://login1,http://10.0.0.7:8080,https://10.0.0.7:8080"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a server's database."""
    folder = tmp_path_factory.mktemp("prepared")
    umask = os.umask(0)
    try:
        prepared(folder)
    finally:
        os.umask(umask)
    return folder


def prepared(folder: Path, host: str = "127.0.0.1", auth: bool | None = None, names: str = "") -> TrackingServer:
    return prepare_tracking_server(f"sqlite:///{folder}/server.db", host, free_port(), auth, names)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secret_is_made_once_and_only_its_owner_can_read_it(place: Path) -> None:
    folder = place / "server-secrets"
    assert (mode(folder), mode(folder / "secret_key")) == (0o700, 0o600)
    secret = (folder / "secret_key").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", secret)
    again = prepared(place).process.environment()
    assert again["MLFLOW_FLASK_SERVER_SECRET_KEY"] == secret == (folder / "secret_key").read_text()
    (folder / "secret_key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"secret_key: others can read it; allowed: mode 600"):
        prepared(place)
    (folder / "secret_key").chmod(0o600)


def test_admin_password_is_generated_shown_and_stored_nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(HAS_AUTH, "Flask-WTF is not installed")
    first, second = prepared(place, auth=True), prepared(place, auth=True)
    assert first.password
    assert len(first.password) >= 20
    assert first.password != second.password  # no user was created in between
    assert first.lines()[1] == f"user admin, password {first.password} (shown this once)"
    assert first.process.environment()["MLFLOW_AUTH_ADMIN_PASSWORD"] == first.password
    assert first.password not in " ".join(first.process.command())
    folder = place / "server-secrets"
    assert mode(folder / "basic_auth.ini") == 0o600
    assert "password" not in (folder / "basic_auth.ini").read_text()
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    given = prepared(place, auth=True)
    assert given.process.environment()["MLFLOW_AUTH_ADMIN_PASSWORD"] == PASSWORD
    assert PASSWORD not in "".join(given.lines())


def test_server_without_authentication_on_the_network_says_so(place: Path) -> None:
    server = prepared(place, "0.0.0.0", auth=False, names="login1,*.cluster.org")
    assert f"no authentication: everyone who reaches port {server.process.port} can read and change all runs" in (
        server.lines()
    )
    assert server.process.names[:2] == ("login1", "*.cluster.org")
    assert not any(name in server.process.names for name in ("localhost", "0.0.0.0", "*"))


def test_database_of_a_server_is_opened_through_the_server_only(place: Path) -> None:
    done = invoke(*TINY, f"tracking.uri=sqlite:///{place}/server.db", "tracking.experiment=Default")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "is the database of a tracking server; allowed: the server's address" in done.err


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(f"sqlite:///{tmp_path_factory.mktemp('loopback')}/server.db", tmp_path_factory.mktemp("files"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def status(server: Server, path: str, method: str = "GET", **options: object) -> int:
    return requests.request(method, f"{server.uri}{path}", timeout=30, **options).status_code  # type: ignore[arg-type]


CREATE = "/api/2.0/mlflow/experiments/create"


@pytest.mark.thorough
def test_server_listens_on_loopback_only(loopback: Server) -> None:
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", loopback.port), timeout=5):
        pass


@pytest.mark.thorough
def test_server_is_three_processes_without_jobs_and_telemetry(loopback: Server) -> None:
    commands = loopback.processes()
    assert len(commands) <= 3
    assert not [line for line in commands if "huey" in line or "job" in line]
    assert all("MLFLOW_DISABLE_TELEMETRY=true" in text for text in loopback.environments())


@pytest.mark.thorough
@pytest.mark.parametrize(
    "path", ["/ajax-api/3.0/mlflow/assistant/config", "/gateway/x/invocations", "/ajax-api/3.0/jobs/x", "/v1/traces"]
)
def test_services_that_a_store_of_runs_does_not_need_are_absent(loopback: Server, path: str) -> None:
    assert {status(loopback, path), status(loopback, path, "POST", json={})} <= {404, 405}


@pytest.mark.thorough
@pytest.mark.parametrize("host", ["evil.org", "10.evil.org", "localhost.evil.org", "127.0.0.1.evil.org"])
def test_other_names_of_the_machine_are_refused(loopback: Server, host: str) -> None:
    """A page of another site whose name resolves to loopback sends that name."""
    assert status(loopback, "/", headers={"Host": host}) == 403
    assert status(loopback, "/", headers={"Host": f"{host}:{loopback.port}"}) == 403
    assert status(loopback, "/", headers={"Host": "localhost:8888"}) == 200  # a tunnel's


@pytest.mark.thorough
def test_pages_of_other_sites_cannot_change_runs(loopback: Server) -> None:
    foreign, own = ({"Origin": origin} for origin in ("http://evil.org", loopback.uri))
    assert status(loopback, CREATE, "POST", json={"name": "foreign"}, headers=foreign) == 403
    assert status(loopback, CREATE, "POST", json={"name": "own"}, headers=own) == 200
    assert "evil" not in str(requests.get(loopback.uri, headers=foreign, timeout=30).headers)


@pytest.mark.thorough
def test_artifacts_pass_through_the_server(loopback: Server) -> None:
    done = invoke(*TINY, f"tracking.uri={loopback.uri}", "tracking.experiment=proxied")
    assert done.code == 0, done.err
    files = [path.name for path in (loopback.folder / "server" / "artifacts").rglob("*.parquet")]
    assert sorted(files) == ["chain.parquet", "records.parquet"]
    secret = (loopback.folder / "server" / "secrets" / "secret_key").read_text()
    for path in ("../../secrets/secret_key", "..%2f..%2fsecrets%2fsecret_key", "/etc/passwd"):
        answer = requests.get(f"{loopback.uri}/api/2.0/mlflow-artifacts/artifacts/{path}", timeout=30)
        assert answer.status_code >= 400
        assert "root" not in answer.text
        assert secret not in answer.text


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server with users on all addresses; its database has the password that was given."""
    require(HAS_AUTH, "Flask-WTF is not installed")
    server = Server(
        f"sqlite:///{tmp_path_factory.mktemp('closed')}/server.db",
        tmp_path_factory.mktemp("closed files"),
        options=("--auth", "--host", "0.0.0.0"),
        environment={"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD},
    )
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.mark.thorough
def test_every_request_needs_the_password(closed: Server) -> None:
    paths = ["/", "/api/2.0/mlflow/experiments/search?max_results=1", "/api/2.0/mlflow-artifacts/artifacts", "/graphql"]
    for path in paths:
        assert status(closed, path) == 401
        for wrong in ("password", "password1234", "", PASSWORD + "x"):
            assert status(closed, path, auth=("admin", wrong)) == 401
    assert status(closed, CREATE, "POST", json={"name": "x"}) == 401
    assert status(closed, paths[0], auth=("admin", PASSWORD)) == 200
    assert [status(closed, path) for path in ("/health", "/api/3.0/mlflow/server-info")] == [200, 200]


@pytest.mark.thorough
def test_credentials_of_a_client_are_used_and_logged_nowhere(closed: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"tracking.uri={closed.uri}"
    refused = invoke(*TINY, address)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "needs a user and a password: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD" in refused.err
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    done = invoke(*TINY, address)
    assert done.code == 0, done.err
    assert PASSWORD not in done.out + done.err
    stored = [Path(closed.backend.removeprefix("sqlite:///")), *closed.folder.rglob("*")]
    assert any(path.name == "records.parquet" for path in stored)
    for path in stored:
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.thorough
def test_password_is_no_longer_needed_once_the_user_exists(closed: Server) -> None:
    """Restarted without the variable, the server has the same users, and shows no password."""
    closed.kill()
    closed.environment.clear()
    log = closed.folder / "server.log"
    seen = log.stat().st_size
    closed.start()
    assert "shown this once" not in log.read_text()[seen:]
    assert status(closed, "/", auth=("admin", PASSWORD)) == 200
    assert status(closed, "/", auth=("admin", "password1234")) == 401


@pytest.mark.thorough
def test_users_see_each_others_runs_and_cannot_delete_them(closed: Server) -> None:
    def api(path: str, who: tuple[str, str], **body: str) -> requests.Response:
        return requests.post(f"{closed.uri}/api/2.0/mlflow/{path}", json=body, auth=who, timeout=30)

    admin, other = ("admin", PASSWORD), ("student", "a student's password")
    assert api("users/create", admin, username=other[0], password=other[1]).status_code == 200
    created = json.loads(api("experiments/create", admin, name="shared").text)["experiment_id"]
    run = json.loads(api("runs/create", other, experiment_id=created).text)["run"]["info"]["run_id"]
    assert api("runs/log-metric", other, run_id=run, key="m", value="1", timestamp="1").status_code == 200
    assert api("runs/delete", other, run_id=run).status_code == 403
    assert api("experiments/delete", other, experiment_id=created).status_code == 403
    assert api("users/create", other, username="third", password="another long one").status_code == 403


@pytest.mark.thorough
def test_stopped_server_frees_its_port(place: Path) -> None:
    server = Server(f"sqlite:///{place}/server.db", place)
    server.start()
    server.stop()
    until(lambda: not server.processes(), "the end of the server", 20)
    with socket.create_server(("127.0.0.1", server.port)):
        pass
