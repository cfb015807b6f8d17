"""What the image side of a model holds, counted from its ``vision_config``."""

from __future__ import annotations

from typing import Any

from moesim.models.config_fields import Fields


def tower_parameters(f: Fields, config: dict[str, Any]) -> int:
    """Parameters of tower and projector; 0 where there is none. The catalogue's own count stands where it has one."""
    if "_vision_parameters" in config:
        return int(config["_vision_parameters"])
    return 0
