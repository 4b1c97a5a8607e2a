"""``python -m sextract`` and ``sextract``: sets up the process before numpy starts threads, then the command line."""

import gc
import sys

from sextract.errors import LimitError, out_of_memory
from sextract.execution.environment import enough_to_start, leave_on_signals, prepare


def main() -> int:
    """Run the command line; its exit code."""
    # What imports make stays; looking for what doesn't would take a tenth of them.  A run turns it on again.
    gc.disable()
    leave_on_signals()
    prepare()
    try:
        if not enough_to_start():
            raise MemoryError
        from sextract.cli import main as command_line
    except (ImportError, MemoryError) as exc:
        if not out_of_memory(exc):
            raise
        sys.stderr.write("> *ERROR*: too little memory to start at all: raise the limits of the shell or job (ulimit -v, -d)\n")
        return LimitError.exit_code
    try:
        return command_line()
    finally:
        # The memory of a process that ends goes as a whole: nobody needs to look through it once more.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
