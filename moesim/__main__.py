"""The command line's entry point; starts without NumPy, so that a mistyped command answers at once."""

import sys

from moesim.process import leave, settle


def run() -> int:
    """One command, as a process of its own."""
    settle()
    try:
        from moesim.cli import main

        code = main()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 2
    except KeyboardInterrupt:
        print("moesim: stopped", file=sys.stderr)
        code = 130
    return leave(code)


if __name__ == "__main__":
    sys.exit(run())
