"""The fitted formulas, one module per kernel family.

A form is a list of ``Parameter`` and a function ``seconds(p, op, gpu) -> Timing``. The same function prices a
prediction (scalars) and a table in a fit (arrays).
"""
