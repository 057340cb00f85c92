"""Hooks of mkdocs for the site that ``make docs`` builds.

The site gets a page for each file outside of docs/ that a page links to: text as it is, code as a listing, a notebook
with its outputs. Nothing on a page may be loaded from the network.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
DOCS, OUTSIDE = "docs", "files"  # the folder of the pages, and that of the files from elsewhere on the site
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
IMPORTED = re.compile(r"@import|url\([\"']?(?:https?:)?//")
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(?=<code>|<span)")  # of docstrings
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


def on_config(config: Any) -> Any:
    """Leave pages out of the navigation that are not there."""
    config["nav"] = present(config["nav"], Path(config["docs_dir"]))
    return config


def present(nav: Any, folder: Path) -> Any:
    """Return a navigation without the pages that do not exist."""
    if isinstance(nav, str):
        return nav if (folder / nav).is_file() else None
    if isinstance(nav, dict):
        kept = {title: present(part, folder) for title, part in nav.items()}
        return {title: part for title, part in kept.items() if part} or None
    return [part for part in (present(part, folder) for part in nav) if part]


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside of docs/ that a page, or one of these files, links to."""
    from mkdocs.structure.files import File

    waiting = sorted((PROJECT / DOCS).rglob("*.md"))
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in targets(page.read_text(encoding="utf-8"), page.relative_to(PROJECT).parent):
            if target in seen or not target.is_file():
                continue
            seen.add(target)
            if target.is_relative_to(PROJECT / DOCS):
                continue
            uri = place(target)
            if uri.endswith(".md"):
                files.append(File.generated(config, uri, content=text_of(target)))
                waiting += [target] * (target.suffix == ".md")
            else:
                files.append(File.generated(config, uri, content=target.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point the links of a page to the places that the files have on the site."""
    return rewritten(markdown, page.file.src_uri)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Leave the roles of docstrings out of a page."""
    return ROLE.sub("", html)


def on_post_build(config: Any) -> None:
    """Check that no page loads anything from the network.

    Raises:
        SystemExit: One does.
    """
    for path in sorted(Path(config["site_dir"]).rglob("*")):
        if path.suffix in (".html", ".css"):
            pattern = LOADED if path.suffix == ".html" else IMPORTED
            if found := pattern.search(path.read_text(encoding="utf-8")):
                raise SystemExit(f"error: {path}: loads from the network: {found[0][:200]}")


def targets(text: str, folder: Path) -> Iterator[Path]:
    """Yield the files that a text links to; a folder stands for its README.

    Args:
        text: Markdown.
        folder: The folder of its file, relative to the project.
    """
    for part in FENCE.split(text)[::2]:
        for _, link, _ in LINK.findall(part):
            if (found := target_of(link, folder)) is not None:
                yield found


def target_of(link: str, folder: Path) -> Path | None:
    """Return the file that a link leads to; None for an address or a heading of the same page."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", link):
        return None
    target = Path(os.path.normpath(PROJECT / folder / path))
    return target / "README.md" if target.is_dir() else target


def place(file: Path) -> str:
    """Return where a file of the project is on the site, as the address of its source."""
    if file.is_relative_to(PROJECT / DOCS):
        return file.relative_to(PROJECT / DOCS).as_posix()
    is_listed = file.suffix in LANGUAGES or file.suffix == ".ipynb"
    return f"{OUTSIDE}/{file.relative_to(PROJECT).as_posix()}{'.md' if is_listed else ''}"


def rewritten(markdown: str, uri: str) -> str:
    """Return a page with links to the places of its targets on the site.

    Args:
        markdown: The page.
        uri: The address of its source.
    """
    own = uri.removeprefix(f"{OUTSIDE}/")
    folder = Path(own).parent if own != uri else Path(DOCS, uri).parent

    def relinked(match: re.Match[str]) -> str:
        target = target_of(match[2], folder)
        if target is None:
            return match[0]
        heading = match[2].partition("#")[2]
        path = posixpath.relpath(place(target), posixpath.dirname(uri) or ".")
        return f"{match[1]}{path}{f'#{heading}' if heading else ''}{match[3]}"

    parts = FENCE.split(markdown)
    return "".join(part if i % 2 else LINK.sub(relinked, part) for i, part in enumerate(parts))


def text_of(file: Path) -> str:
    """Return a file as Markdown."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    name = file.relative_to(PROJECT).as_posix()
    if file.suffix == ".ipynb":
        return f"# {name}\n\n" + "\n\n".join(_cell(cell) for cell in json.loads(text)["cells"])
    return f"# {name}\n\n```{LANGUAGES[file.suffix]}\n{text}```\n"


def _cell(cell: dict[str, Any]) -> str:
    """Return a cell of a notebook with its outputs as Markdown."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return re.sub(r"^# ", "## ", source)
    return "\n\n".join([f"```python\n{source}\n```", *(_output(output) for output in cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    """Return an output of a cell: its page, its picture or its text."""
    data = output.get("data", {})
    forms: dict[str, Callable[[str], str]] = {
        "text/html": lambda html: f"<div>{html}</div>",
        "image/png": lambda png: f"![output](data:image/png;base64,{png.strip()})",
        "text/plain": lambda text: f"```text\n{text}\n```",
    }
    for kind, shown in forms.items():
        if kind in data:
            return shown("".join(data[kind]))
    return f"```text\n{''.join(output.get('text', []))}\n```"
