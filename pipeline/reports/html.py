"""The page of a report: one HTML file that needs nothing else, no network, no scripts, no fonts of others.

What comes from the store is untrusted: the template escapes all of it, and pictures are images, in which nothing runs.
The same content gives the same page, byte for byte.
"""

from __future__ import annotations

import base64
import contextlib
import io
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import yaml
from matplotlib.figure import Figure

from pipeline.errors import ConfigError
from pipeline.reports.figures.style import ReportFigure
from pipeline.tracking.safe_reading import parse_yaml

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_CONFIG = 200_000
PIXELS = 112  # an inch of a figure on the page
ORIGIN = (  # tag, what it is
    ("git.commit", "commit"),
    ("config.sha256", "config, SHA-256"),
    ("data.sha256", "data, SHA-256"),
    ("seed", "seed of the first replicate"),
    ("overrides", "overrides"),
    ("python", "Python"),
    ("platform", "platform"),
    ("processor", "processor"),
    ("blas", "BLAS"),
    ("blas.core_type", "BLAS kernels"),
    ("blas.threads", "BLAS threads"),
)


def svg(figure: Figure) -> str:
    """A figure as a data URI; the same figure gives the same text."""
    buffer = io.BytesIO()
    options: Any = {"svg.hashsalt": "gradvitals", "svg.fonttype": "path"}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name in the store
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shown(found: Sequence[ReportFigure]) -> list[dict[str, Any]]:
    """Pictures as the template wants them."""
    return [
        {
            "title": p.title,
            "source": svg(p.figure),
            "width": round(PIXELS * p.figure.get_size_inches()[0]),
            "alt": p.alt,
            "caption": p.caption,
        }
        for p in found
    ]


def _code(text: str) -> list[str]:
    """Text between backticks at the odd places, what is around it at the even ones."""
    parts = text.split("`")
    return parts if len(parts) % 2 else [text]


def render(**content: Any) -> str:
    """The template, filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    html = environment.get_template("report.html.j2").render(**content)
    return html.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate of a JSON file is no text


def origin(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """What the numbers depend on besides the config."""
    rows = [(name, tags[tag]) for tag, name in ORIGIN if tags.get(tag)]
    rows = [(name, without_addresses(value) if name == "overrides" else value) for name, value in rows]
    rows = [(name, value) for name, value in rows if value]
    if tags.get("git.dirty") == "true":
        rows.insert(1, ("uncommitted changes", "yes: artifact uncommitted.patch"))
    packages = [f"{tag[8:]} {version}" for tag, version in sorted(tags.items()) if tag.startswith("package.")]
    return [*rows, ("packages", ", ".join(packages))] if packages else rows


def without_addresses(overrides: str) -> str:
    """Where a store is says nothing about the numbers, and may hold a password."""
    return " ".join(o for o in overrides.split(" ") if not o.lstrip("+").startswith("tracking"))


def is_inert(html: str) -> bool:
    """Whether a page begins as ours do, with the policy by which no browser runs or loads anything in it."""
    head = (TEMPLATES / "report.html.j2").read_text(encoding="utf-8").partition("<title>")[0]
    return html.startswith(head) and "<script" not in html.lower()


def foreign(tags: Mapping[str, str]) -> list[str]:
    """What a reader of somebody else's run should know."""
    if tags.get("imported") != "true":
        return []
    run, seal = tags.get("imported.run_id", "")[:64], tags.get("imported.seal", "")[:64]
    return [
        f"imported from a folder (run {run}, seal {seal}): it says what its folder said, the verdict included, and "
        "nothing of it was measured here; `make reproduce` does"
    ]


def config_text(text: str) -> str:
    """The resolved config without its tracking, for the same reason; as it is where it is not YAML."""
    with contextlib.suppress(ConfigError):
        kept = {key: value for key, value in parse_yaml(text, "").items() if key != "tracking"}
        text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
    return text if len(text) <= LONGEST_CONFIG else f"{text[:LONGEST_CONFIG]}\n... (the rest is in the artifact)"


def write(html: str, path: Path) -> None:
    """The whole file or none: written beside it, then put in its place.

    Raises:
        ConfigError: a place that cannot be written to.
    """
    new = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        new.write_text(html, encoding="utf-8")
        new.replace(path)
    except OSError as failure:
        raise ConfigError(f"TO={path}: cannot be written ({failure.strerror})") from failure
    finally:
        new.unlink(missing_ok=True)
