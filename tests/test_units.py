"""Quantities: exact prefixes, and no number without a unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim import units


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("3.35 TB/s", "B/s", 3.35e12),
        ("80 GiB", "B", 80 * 2**30),
        ("80 GB", "B", 80e9),
        ("989.4 TFLOP/s", "FLOP/s", 989.4e12),
        ("1e3 GB/s", "B/s", 1e12),
        ("2.5 us", "s", 2.5e-6),
        ("660.6 TOP/s", "FLOP/s", 660.6e12),
    ],
)
def test_parse(text, unit, value):
    assert units.parse(text, unit) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", [80, 3.5, "80", "80 GiB/s", "GiB", "", "eighty GB", None, True, "80 gib"])
def test_refused(text):
    with pytest.raises(ValueError, match="write a number and a unit"):
        units.parse(text, "B")


@given(st.floats(1e-3, 1e6), st.sampled_from(sorted(units.UNITS["B"])))
def test_prefixes_scale(number, unit):
    assert units.parse(f"{number!r} {unit}", "B") == pytest.approx(number * units.UNITS["B"][unit])


def test_shown_for_a_reader():
    assert units.bytes_text(80 * 2**30) == "80 GiB"
    assert units.bytes_text(12) == "12 B"
