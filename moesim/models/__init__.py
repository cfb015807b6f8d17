"""Models as blocks, read from config.json, and the part of one that a rank of a plan holds."""
