"""Steps of an engine: what one costs, what overlaps, how stages follow each other, as a tree or from tables."""
