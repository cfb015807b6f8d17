"""``vllm serve ...`` as people run it, read into a scenario: text -> words -> the program -> arguments -> settings."""

from moesim.inputs.vllm_command.arguments import is_flag
from moesim.inputs.vllm_command.reading import scenario_from_vllm

__all__ = ["is_flag", "scenario_from_vllm"]
