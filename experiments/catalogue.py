"""The catalogue: one page with the claims and figures of all experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.claims import Answer, count_within, markdown
from experiments.runner import ExperimentResult
from pipeline.paths import PROJECT
from pipeline.reports.outputs import check_output, png, write_output

CATALOGUE = PROJECT / "docs" / "experiments"
PAGE = "README.md"
DOTS_PER_INCH = 110  # of its figures


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


def check_catalogue(names: Sequence[str], folder: Path = CATALOGUE, force: bool = False) -> None:
    """Refuse to replace files that were not written here, before the experiments run.

    Raises:
        ConfigError: A file of another origin is in the place of the page or of a figure.
    """
    for path in (folder / PAGE, *(folder / f"{name}.png" for name in names)):
        check_output(path, force)


def write_catalogue(
    results: Sequence[ExperimentResult], slow: bool, folder: Path = CATALOGUE, force: bool = False
) -> CatalogueResult:
    """Write the catalogue and its figures to a folder; ``force`` replaces files that were not written here."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        write_output(png(result.figure, DOTS_PER_INCH), folder / f"{result.experiment.name}.png", force)
    page = folder / PAGE
    write_output("".join(f"{line}\n" for line in catalogue(results, slow)).encode(), page, force)
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
