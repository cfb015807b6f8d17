"""GPUs, hosts and clusters as their files describe them, and what lies between two GPUs."""
