"""A foreign folder's config may name any file of this machine; no message quotes what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.commands import invoke
from support.exported import copied, with_new_manifest
from support.stores import opened, uri

pytestmark = pytest.mark.xdist_group("foreign_files")

SMALL = ("experiment=smoke", "epochs=1", "data.subset=50", "architecture.depth=2", "tracking.figures=false")
SECRETS = {
    "passwd": "root:x:0:0:secret:/root:/bin/sh\ndaemon:x:1:1:secret:/:/bin/sh\n",
    "csv": "secret_name,target\nsecret_value,a\nsecret_value,b\nsecret_other,a\n",
    "numbers": "secret_a,secret_b\n1,2\n3,secret\n5,6\n" * 4,
    "bytes": "\xa5secret\n\x00secret",
    "wide": "a,b\n1,2\nsecret,secret,secret\n",
    "idx": "secret",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    table = folder / "own.csv"
    table.write_text("a,b,target\n" + "".join(f"{n % 7},{n % 5},{'yn'[n % 2]}\n" for n in range(60)))
    own = ("data=csv", f"data.source.path={table}", "data.source.target=target", "data.subset=null")
    shown = invoke("run", *SMALL[:2], "architecture.depth=2", *own, f"tracking.uri={uri(folder)}")
    assert shown.code == 0, shown.err
    (run,) = opened(folder).search()
    shown = invoke("export", "--run", run.info.run_id, "--to", str(folder / "out"), "--uri", uri(folder))
    assert shown.code == 0, shown.err
    return folder / "out"


def naming(exported: Path, to: Path, file: Path, **keys: str) -> Path:
    """Return a copy of a folder whose config names a file, sealed again."""
    folder = copied(exported, to)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["source"] |= {"path": str(file), **keys}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return with_new_manifest(folder)


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("keys", [{}, {"target": "nosuch"}, {"categorical": "one_hot"}, {"task": "regression"}])
@pytest.mark.thorough
def test_reproducing_a_foreign_folder_quotes_no_file_that_it_names(
    exported: Path, kind: str, keys: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "private"
    file.write_bytes(SECRETS[kind].encode("latin-1"))
    folder = naming(exported, tmp_path / "out", file, **keys)
    shown = invoke("reproduce", str(folder), "--as-it-is")
    assert "secret" not in shown.out + shown.err
    assert shown.code in (1, 2)
    if shown.code == 2:
        assert f"cannot be read from {str(file)[:80]}" in shown.err
        assert len(shown.err.splitlines()) == 1


@pytest.mark.thorough
def test_imported_run_quotes_no_file_that_it_names(exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "private"
    file.write_text(SECRETS["passwd"])
    folder = naming(exported, tmp_path / "out", file)
    opened(tmp_path)
    assert invoke("import", "--from", str(folder), "--uri", uri(tmp_path)).code == 0
    (run,) = opened(tmp_path).search()
    for command in ("reproduce", "prescribe"):
        shown = invoke(command, run.info.run_id, "--uri", uri(tmp_path))
        assert shown.code == 2
        assert "secret" not in shown.out + shown.err
        assert "which its config names" in shown.err


def test_missing_file_and_a_file_of_the_users_own_are_named(exported: Path, tmp_path: Path) -> None:
    folder = naming(exported, tmp_path / "out", tmp_path / "gone.csv")
    shown = invoke("reproduce", str(folder), "--as-it-is")
    assert shown.code == 2
    assert "no such file" in shown.err
    mine = tmp_path / "mine.csv"
    mine.write_text(SECRETS["csv"])
    shown = invoke("reproduce", str(folder), f"data.source.path={mine}", "--as-it-is")
    assert shown.code == 2
    assert "secret_name" in shown.err
