"""``vllm serve ...`` as people run it, read into a scenario: text -> words -> the program -> arguments -> settings."""

from moesim.inputs.vllm_command.arguments import is_flag
from moesim.inputs.vllm_command.reading import scenario_from_vllm
from moesim.inputs.vllm_command.writing import docker_command, serve_command

__all__ = ["docker_command", "is_flag", "scenario_from_vllm", "serve_command"]
