"""Seconds: work + hardware + fitted curves -> Cost, a tree with time, interval, bound, formula and source."""
