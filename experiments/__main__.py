"""``python -m experiments NAME``: the same as the command ``gradvitals experiment NAME``."""

from __future__ import annotations

import sys

from pipeline.signals import leave_at_once

if __name__ == "__main__":
    leave_at_once()

from collections.abc import Sequence

from experiments.command import experiment
from pipeline.cli import execute


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return execute(experiment, argv, "python -m experiments")


if __name__ == "__main__":
    sys.exit(main())
