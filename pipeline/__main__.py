"""``python -m pipeline``: the same as the command ``gradvitals``. Python imports little before a signal is handled.

The program starts here, above all packages: its commands are those of the pipeline and of the experiments.
"""

from __future__ import annotations

import sys

from pipeline.signals import leave_at_once


def main() -> int:
    """Run one command of gradvitals and return its exit code."""
    leave_at_once()
    from experiments.command import experiment
    from pipeline.cli import commands
    from pipeline.cli import main as run

    commands.add_command(experiment)
    return run()


if __name__ == "__main__":
    sys.exit(main())
