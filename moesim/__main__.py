"""The command line's entry point; starts without NumPy, so that a mistyped command answers at once."""

import sys

from moesim.process import leave, settle


def run() -> int:
    """One command, as a process of its own."""
    settle()
    try:
        from moesim.cli import main

        return main()
    except KeyboardInterrupt:
        print("moesim: stopped", file=sys.stderr)
        return 130
    finally:
        leave()


if __name__ == "__main__":
    sys.exit(run())
