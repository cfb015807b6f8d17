"""The command line's entry point; starts without NumPy, so that a mistyped command answers at once."""

import sys

from moesim.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
