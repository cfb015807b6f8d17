"""What the user writes: scenario, workload, offloading, and whether its parts go together."""
