"""Random scenarios against the physical oracle: ``python -m tests.oracle 5000`` tries as many by hand."""

import pytest

from tests.oracle import broken_laws

FEW, MANY, EACH = 4, 20, 25


@pytest.mark.parametrize("seed", range(FEW))
def test_no_law_is_broken(seed):
    valid, broken = broken_laws(EACH, seed)
    assert valid == EACH and not broken


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + MANY))
def test_no_law_is_broken_by_many(seed):
    valid, broken = broken_laws(100, seed)
    assert valid == 100 and not broken
