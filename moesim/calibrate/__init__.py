"""Measured tables -> fitted parameters with errors and valid ranges."""
