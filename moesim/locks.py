"""A lock between processes, where a system has such locks."""

from __future__ import annotations


def lock(file: int) -> None:
    """Hold an open file for this process alone, until it is closed; where a system cannot (Windows), nothing is held.

    Raises OSError where another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
