"""vLLM: its V1 scheduler."""

from moesim.engines.vllm.scheduler import V1Scheduler

SCHEDULERS = {"v1": V1Scheduler}
"""By the name that a version's file gives."""
