"""Exit codes: 0 done, 2 bad input, 3 does not fit, 4 outside the fits under --strict."""

BAD_INPUT, DOES_NOT_FIT, EXTRAPOLATED = 2, 3, 4
