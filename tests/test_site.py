"""The hooks of the site that ``make docs`` builds. CI builds it whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.excerpts import PROJECT

from tools import site_hooks


def test_links_of_a_page_lead_to_the_places_of_their_files() -> None:
    page = (
        "[a](../glossary.md#many-runs) [b](../../engine/network.py) [c](https://x.org) [d](#here)\n"
        "```\n[e](../../engine/network.py)\n```\n[f](../../experiments/chain)\n"
    )
    assert site_hooks.rewritten(page, "how-to/sweeps.md") == (
        "[a](../glossary.md#many-runs) [b](../files/engine/network.py.md) [c](https://x.org) [d](#here)\n"
        "```\n[e](../../engine/network.py)\n```\n[f](../files/experiments/chain/README.md)\n"
    )


def test_page_from_outside_links_back_to_the_pages_of_docs() -> None:
    text = "[verdicts](../../docs/verdicts.md), [claims](claims.yaml), ![](figure.png)"
    assert site_hooks.rewritten(text, "files/experiments/chain/README.md") == (
        "[verdicts](../../../verdicts.md), [claims](claims.yaml.md), ![](figure.png)"
    )


def test_notebook_is_a_page_with_its_code_pictures_and_texts() -> None:
    page = site_hooks.text_of(PROJECT / "examples" / "quickstart.ipynb")
    assert "```python\nfrom pipeline import" in page
    assert "![output](data:image/png;base64," in page
    assert "```text\nGradients vanish" in page


def test_navigation_has_the_pages_that_exist(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    nav = [{"A": "a.md"}, {"Part": [{"B": "b.md"}]}, {"Both": [{"A": "a.md"}, {"B": "b.md"}]}]
    assert site_hooks.present(nav, tmp_path) == [{"A": "a.md"}, {"Both": [{"A": "a.md"}]}]


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("a.html", '<script src="https://x.org/a.js"></script>', True),
        ("a.html", "<img alt=x src=//x.org/a.png>", True),
        ("a.css", "@font-face{src:url(https://x.org/a.woff)}", True),
        ("a.html", '<a href="https://x.org">x</a><script src="a.js"></script>', False),
    ],
)
def test_page_that_loads_from_the_network_is_refused(name: str, text: str, refused: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    if refused:
        with pytest.raises(SystemExit, match="loads from the network"):
            site_hooks.on_post_build({"site_dir": str(tmp_path)})
    else:
        site_hooks.on_post_build({"site_dir": str(tmp_path)})
