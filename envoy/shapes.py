"""Shapes that come up all over Envoy's configuration."""

from typing import Any

Yaml = dict[str, Any]

TYPES = "type.googleapis.com/envoy."


def named(name: str, config: Yaml) -> Yaml:
    """An extension with its configuration."""
    return {"name": name, "typed_config": config}


def address(host: str, port: int) -> Yaml:
    """Where to listen, or whom to call."""
    return {"socket_address": {"address": host, "port_value": port}}
