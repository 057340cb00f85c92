"""The catalogue: one page with the claims and figures of all experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.claims import Answer, count_within, markdown
from experiments.runner import ExperimentResult
from pipeline.paths import PROJECT

CATALOGUE = PROJECT / "docs" / "experiments"


@dataclass(frozen=True)
class CatalogueResult:
    """A written catalogue.

    Attributes:
        page: The written page.
        answers: The claims of all experiments.
    """

    page: Path
    answers: Sequence[Answer]

    def lines(self) -> list[str]:
        """Return how many claims are within their tolerance, and the page."""
        return [f"{count_within(self.answers)} claims within tolerance; {self.page}"]


def write_catalogue(results: Sequence[ExperimentResult], slow: bool, folder: Path = CATALOGUE) -> CatalogueResult:
    """Write the catalogue and its figures to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        result.figure.savefig(folder / f"{result.experiment.name}.png", dpi=110)
    page = folder / "README.md"
    page.write_text("\n".join(catalogue(results, slow)) + "\n", encoding="utf-8")
    return CatalogueResult(page, [a for result in results for a in result.answers])


def catalogue(results: Sequence[ExperimentResult], slow: bool) -> list[str]:
    """Return the lines of the catalogue's page."""
    answers = [a for result in results for a in result.answers]
    command = "make experiments" + (" SLOW=1" if slow else "")
    lines = ["# Vanishing and exploding gradients: published results and theory, measured", ""]
    lines += [f"Written by `{command}`. {count_within(answers)} claims are within their tolerance.", ""]
    for result in results:
        name, description = result.experiment.name, result.experiment.description
        readme = f"[what it means](../../experiments/{name}/README.md)"
        lines += [f"## {description.title}", ""]
        lines += [f"{description.source}. `make experiment NAME={name}`; {readme}.", ""]
        lines += [f"![{description.title}]({name}.png)", "", *markdown(result.answers), ""]
    return lines
