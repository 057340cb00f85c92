"""docs/import_graph.svg shows the imports that the source has; its line counts may be older."""

from __future__ import annotations

import re
from pathlib import Path

from tools import import_graph

EDGE = re.compile(r'id="(import-[a-z]+-[a-z]+)"')


def test_picture_has_the_arrows_of_the_source() -> None:
    edges = import_graph.box_edges(import_graph.module_graph(import_graph.modules()))
    drawn = EDGE.findall(import_graph.PICTURE.read_text(encoding="utf-8"))
    assert sorted(drawn) == sorted(import_graph.edge_id(above, below) for above, below in edges), "run make graph"


def test_source_has_no_upward_import_and_no_circle() -> None:
    assert import_graph.problems(import_graph.module_graph(import_graph.modules())) == []


def test_upward_imports_and_circles_are_named() -> None:
    graph = {"pipeline.data.table": {"pipeline.runs.cell"}, "pipeline.runs.cell": {"pipeline.data.table"}}
    upward, circle = import_graph.problems(graph)
    assert upward == "pipeline.data.table: imports pipeline.runs.cell from above"
    assert circle.startswith("circle of imports: pipeline.")


def test_module_outside_the_house_is_named() -> None:
    (line,) = import_graph.problems({"pipeline.attic.box": set()})
    assert line.startswith("pipeline.attic.box: not in a wing; allowed: experiments, cli, api, sweeps")


def test_imports_are_read_everywhere_in_a_module(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "def f():\n    from engine import network\n    import engine.costs\n", encoding="utf-8"
    )
    files = {"pipeline.data.a": tmp_path / "a.py", "engine.network": Path(), "engine.costs": Path()}
    files |= dict.fromkeys(("engine.network", "engine.costs"), tmp_path / "b.py")
    (tmp_path / "b.py").touch()
    assert import_graph.module_graph(files)["pipeline.data.a"] == {"engine.network", "engine.costs"}


def test_two_pictures_of_the_same_source_are_equal_bytes(tmp_path: Path) -> None:
    edges = {("runs", "data"): 1, ("data", "engine"): 2}
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    import_graph.write(edges, {}, first)
    import_graph.write(edges, {}, second)
    assert first.read_bytes() == second.read_bytes()
    assert EDGE.findall(first.read_text(encoding="utf-8")) == ["import-data-engine", "import-runs-data"]
