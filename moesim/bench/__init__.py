"""What runs on the machine that is measured: torch, the standard library and, where it imports, vLLM. Nothing else of
moesim."""
