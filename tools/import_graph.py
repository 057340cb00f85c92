"""``python -m tools.import_graph`` (``make graph``): draw which wing imports which, from the source.

The exit code is 1 if an import goes upwards or the imports form a circle. Nothing is drawn then.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

PROJECT = Path(__file__).resolve().parent.parent
PICTURE = PROJECT / "docs" / "import_graph.svg"

HOUSE = {  # from the top down: each imports only what stands below it
    "experiments": "published results and their runner",
    "cli": "one click command each; prints",
    "api": "the functions of the commands, for Python",
    "sweeps": "many runs: plan, executor, search",
    "runs": "one logged run: resume, limits",
    "reproducibility": "fingerprint, hash chain, replay, export",
    "reports": "figures, HTML, comparison, trace",
    "tracking": "the only wing that imports MLflow",
    "analysis": "records → estimates, verdict, remedies",
    "training": "config → records; a pure function",
    "config": "Hydra → plain data → typed objects",
    "data": "sources, split, batching",
    "shared": "caching, errors, paths, profiling, progress, signals",
    "engine": "the mathematics: NumPy only",
}
ROW = {name: row for row, name in enumerate(HOUSE)}
SHARED = {"caching", "errors", "paths", "profiling", "progress", "signals", "streams", "threads", "wording"}
FOUNDATION = ("shared", "engine")  # imported by almost all: their arrows run on the left

WIDTH, HEIGHT, PITCH = 4.4, 0.7, 1.0
COLOURS = (
    "#8c564b",
    "#444444",
    "#7f6000",
    "#c0392b",
    "#d35400",
    "#b7950b",
    "#5d8a1f",
    "#138d75",
    "#1f77b4",
    "#5b5fc7",
    "#8e44ad",
    "#777777",
)

Edges = Mapping[tuple[str, str], int]


def modules() -> dict[str, Path]:
    """Return the source file of each module of engine, pipeline and experiments, by dotted name."""
    files = sorted(path for top in ("engine", "pipeline", "experiments") for path in (PROJECT / top).rglob("*.py"))
    return {".".join(f.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def box_of(module: str) -> str | None:
    """Return the box that a module stands in; None for the package ``pipeline`` itself."""
    top, _, rest = module.partition(".")
    if top != "pipeline":
        return top
    part = rest.partition(".")[0]
    if part in SHARED:
        return "shared"
    return {"": None, "__main__": None}.get(part, part)  # the program starts in __main__, above all boxes


def imports_of(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, also inside functions."""
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and statement.level == 0:
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def module_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return the modules of this project that each module imports."""
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for name in imports_of(path.read_text(encoding="utf-8")):
            while name and name not in files:
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def box_edges(graph: Mapping[str, set[str]]) -> Edges:
    """Return the number of imports from box to box."""
    pairs = ((box_of(module), box_of(imported)) for module in graph for imported in graph[module])
    return Counter((above, below) for above, below in pairs if above and below and above != below)


def problems(graph: Mapping[str, set[str]]) -> list[str]:
    """Return one line for each module that imports from above, and for a circle of imports."""
    outside = (module for module in graph if box_of(module) not in {*HOUSE, None})
    lines = [f"{module}: not in a wing; allowed: {', '.join(HOUSE)}" for module in outside]
    for module in graph:
        for imported in sorted(graph[module]):
            above, below = box_of(module), box_of(imported)
            if above in ROW and below in ROW and ROW[above] > ROW[below]:
                lines.append(f"{module}: imports {imported} from above")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as circle:
        lines.append(f"circle of imports: {' -> '.join(circle.args[1])}")
    return lines


def line_counts(files: Mapping[str, Path]) -> Counter[str]:
    """Return the number of lines of Python in each box."""
    counts: Counter[str] = Counter()
    for module, path in files.items():
        counts[box_of(module) or "shared"] += len(path.read_text(encoding="utf-8").splitlines())
    return counts


def edge_id(above: str, below: str) -> str:
    """Return the id of an arrow in the SVG."""
    return f"import-{above}-{below}"


def picture(edges: Edges, lines: Mapping[str, int]) -> Figure:
    """Draw the house: a box for each wing, an arrow for each import."""
    figure = Figure(figsize=(9.0, 9.6), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    for name in HOUSE:
        _draw_box(axes, name, lines.get(name, 0))
    for side in (-1, 1):
        chosen = [edge for edge in edges if (edge[1] in FOUNDATION) == (side == -1)]
        for edge in chosen:
            _draw_arrow(axes, edge, chosen, side)
    bottom = -(len(HOUSE) - 1) * PITCH - HEIGHT
    axes.set_xlim(-5.6, 5.6)
    axes.set_ylim(bottom - 0.55, 0.75)
    axes.text(
        0,
        bottom - 0.2,
        "An arrow means: imports. Colour: the importing box.",
        ha="center",
        va="center",
        size=9,
        color="#555555",
    )
    return figure


def write(edges: Edges, lines: Mapping[str, int], path: Path) -> None:
    """Write the picture. The same edges and counts give the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "gradvitals", "svg.fonttype": "none"}):
        picture(edges, lines).savefig(path, metadata={"Date": None})


def _draw_box(axes: Axes, name: str, lines: int) -> None:
    y = -ROW[name] * PITCH
    corner = (-WIDTH / 2, y - HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.1"
    colour = _colour(name)
    axes.add_patch(
        FancyBboxPatch(
            corner, WIDTH, HEIGHT, boxstyle=style, fc="#fbfaf7", ec=colour, lw=1.4, zorder=3, gid=f"box-{name}"
        )
    )
    axes.text(-WIDTH / 2 + 0.18, y + 0.13, name, size=12, weight="bold", color=colour, va="center", zorder=4)
    axes.text(
        WIDTH / 2 - 0.18, y + 0.13, f"{lines:,} lines", size=9, color="#555555", ha="right", va="center", zorder=4
    )
    axes.text(-WIDTH / 2 + 0.18, y - 0.15, HOUSE[name], size=9, color="#333333", va="center", zorder=4)


def _draw_arrow(axes: Axes, edge: tuple[str, str], drawn: list[tuple[str, str]], side: int) -> None:
    """Draw an arc on one side of the boxes. Arcs are nested: a shorter one lies inside a longer one."""
    above, below = edge
    outgoing = sorted((ROW[b] for a, b in drawn if a == above), reverse=True)
    incoming = sorted((ROW[a] for a, b in drawn if b == below), reverse=True)
    start = _port(above, outgoing.index(ROW[below]), len(outgoing), lower=True)
    end = _port(below, incoming.index(ROW[above]), len(incoming), lower=False)
    x = side * WIDTH / 2
    reach = side * (0.45 + 0.32 * (ROW[below] - ROW[above]))
    curve = Curve(
        [(x, start), (x + reach, start), (x + reach, end), (x + side * 0.03, end)], [Curve.MOVETO, *[Curve.CURVE4] * 3]
    )
    colour = _colour(above)
    axes.add_patch(PathPatch(curve, fc="none", ec=colour, lw=1.1, alpha=0.85, zorder=2, gid=edge_id(above, below)))
    axes.add_patch(
        FancyArrowPatch(
            (x + side * 0.1, end),
            (x, end),
            arrowstyle="-|>",
            mutation_scale=6,
            shrinkA=0,
            shrinkB=0,
            lw=0,
            fc=colour,
            zorder=5,
        )
    )


def _port(name: str, place: int, count: int, lower: bool) -> float:
    """Return the height at which an arrow leaves the lower half of a box, or reaches its upper half."""
    middle = -ROW[name] * PITCH
    share = (place + 0.5) / count * (HEIGHT / 2 - 0.05)
    return middle - share if lower else middle + HEIGHT / 2 - 0.05 - share


def _colour(name: str) -> str:
    return "#222222" if name in FOUNDATION else COLOURS[ROW[name]]


def main() -> int:
    """Check the imports, print the lines of each box and write the picture."""
    files = modules()
    graph = module_graph(files)
    if wrong := problems(graph):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    lines = line_counts(files)
    for name in HOUSE:
        print(f"{name:16} {lines[name]:6,} lines")
    print(f"{'all':16} {lines.total():6,} lines")
    write(box_edges(graph), lines, PICTURE)
    print(f"wrote {PICTURE.relative_to(PROJECT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
