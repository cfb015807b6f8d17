"""Serving engines by name and version: defaults, graphs, reserves, kernel choice, and the scheduler."""
