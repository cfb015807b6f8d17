"""Weights that are not all on the GPU: what a cache of experts hits, what runs where, and what hides behind what."""
