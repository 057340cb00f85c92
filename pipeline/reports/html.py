"""HTML pages of reports: self-contained files without network access, scripts or external fonts.

Content of the store is untrusted. The template escapes it, and figures are images, which cannot run scripts. The same
content gives the same page, byte for byte.
"""

from __future__ import annotations

import base64
import contextlib
import io
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
from pipeline.wording import command

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_CONFIG = 200_000  # characters
PIXELS_PER_INCH = 112  # of a figure on the page
ORIGIN = (  # fact, label
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
    """Return a figure as a data URI; the same figure gives the same text."""
    buffer = io.BytesIO()
    options: Any = {"svg.hashsalt": "gradvitals", "svg.fonttype": "path"}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name from the store
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def template_figures(figures: Sequence[ReportFigure]) -> list[dict[str, Any]]:
    """Return the fields of each figure that the template reads."""
    return [
        {
            "title": p.title,
            "source": svg(p.figure),
            "width": round(PIXELS_PER_INCH * p.figure.get_size_inches()[0]),
            "alt": p.alt,
            "caption": p.caption,
        }
        for p in figures
    ]


def _code(text: str) -> list[str]:
    """Split text at backticks: code is at the odd places, other text at the even ones."""
    parts = text.split("`")
    return parts if len(parts) % 2 else [text]


def render(**content: Any) -> str:
    """Render the template with these variables."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    html = environment.get_template("report.html.j2").render(**content)
    return html.encode("utf-8", "replace").decode("utf-8")  # JSON files may hold lone surrogates


def origin(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return label and value of everything that the numbers depend on, apart from the config."""
    rows = [(name, facts[fact]) for fact, name in ORIGIN if facts.get(fact)]
    rows = [(name, without_addresses(value) if name == "overrides" else value) for name, value in rows]
    rows = [(name, value) for name, value in rows if value]
    if facts.get("git.dirty") == "true":
        rows.insert(1, ("uncommitted changes", "yes: artifact uncommitted.patch"))
    packages = [f"{fact[8:]} {version}" for fact, version in sorted(facts.items()) if fact.startswith("package.")]
    return [*rows, ("packages", ", ".join(packages))] if packages else rows


def without_addresses(overrides: str) -> str:
    """Remove the store, whose address may hold a password, and the executor from a run's overrides."""
    return " ".join(o for o in overrides.split(" ") if not o.lstrip("+").startswith(("tracking", "executor")))


def is_inert(html: str) -> bool:
    """Return whether a page starts like ours: with a policy that keeps browsers from running or loading anything."""
    head = (TEMPLATES / "report.html.j2").read_text(encoding="utf-8").partition("<title>")[0]
    return html.startswith(head) and "<script" not in html.lower()


def foreign(tags: Mapping[str, str]) -> list[str]:
    """Return a note on the origin of an imported run."""
    if tags.get("imported") != "true":
        return []
    run, seal = tags.get("imported.run_id", "")[:64], tags.get("imported.seal", "")[:64]
    return [
        f"imported from a folder (run {run}, seal {seal}): all its numbers and its verdict come from that folder and "
        f"were not measured here; `{command('reproduce')}` measures them"
    ]


def config_text(text: str) -> str:
    """Return the resolved config without the store, shortened; text that is not YAML is left as it is."""
    with contextlib.suppress(ConfigError):
        kept = {key: value for key, value in parse_yaml(text, "").items() if key != "tracking"}
        text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
    return text if len(text) <= LONGEST_CONFIG else f"{text[:LONGEST_CONFIG]}\n... (the rest is in the artifact)"
