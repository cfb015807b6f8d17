"""The fitted formulas, one module per kernel family.

A form is a list of ``Parameter`` and a function ``seconds(p, op, gpu) -> Timing``. The same function prices a
prediction (scalars) and a table in a fit (arrays). Every module here is imported by ``load_forms``, so that a new
family is a new file.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules


@cache
def load_forms() -> None:
    """Import every form, each of which registers itself (``cost/registry.py``)."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
