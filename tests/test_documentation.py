"""Tests of README, docs/ and the READMEs of experiments: links lead somewhere."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from support.excerpts import PROJECT

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "experiments/*/README.md") for path in PROJECT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Python-Markdown both make them for plain headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {
        re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", unicodedata.normalize("NFKC", h)).strip().lower())
        for h in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert not broken


def test_all_pages_are_looked_at() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/glossary.md", "docs/experiments/README.md"} <= set(map(name, PAGES))
