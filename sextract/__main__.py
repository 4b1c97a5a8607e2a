"""``python -m sextract``: the command line."""

import sys

from sextract.cli import main

if __name__ == "__main__":
    sys.exit(main())
