"""``python -m sextract`` and ``sextract``: sets up the process before numpy starts threads, then the command line."""

import sys

from sextract.execution.environment import leave_on_signals, prepare


def main() -> int:
    """Run the command line; its exit code."""
    leave_on_signals()
    prepare()
    from sextract.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
