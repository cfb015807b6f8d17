"""Exit codes: 0 done, 2 bad input, 3 does not fit, 4 outside the fits under --strict, 5 a calibration no longer
holds, 130 stopped by the user."""

BAD_INPUT, DOES_NOT_FIT, EXTRAPOLATED, NOT_HOLDING, STOPPED = 2, 3, 4, 5, 130
