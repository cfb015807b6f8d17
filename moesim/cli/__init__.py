"""The command line."""

from moesim.cli.main import main

__all__ = ["main"]
