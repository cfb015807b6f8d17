"""What-if analysis: sweeps, plans, capacity, search, and predictions beside measured runs."""
