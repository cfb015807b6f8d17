"""Random scenarios against the physical oracle: ``python -m tests.oracle 5000`` tries as many by hand."""

import pytest

from tests.oracle import broken_laws

FEW, MANY, EACH = 4, 20, 25


@pytest.mark.parametrize("seed", range(FEW))
def test_no_law_is_broken(seed):
    assert broken_laws(EACH, seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1000 + MANY))
def test_no_law_is_broken_by_many(seed):
    assert broken_laws(100, seed) == []
