"""Shapes that come up all over Envoy's configuration."""

from typing import Any

Yaml = dict[str, Any]

TYPES = "type.googleapis.com/envoy."


def named(name: str, config: Yaml) -> Yaml:
    """An extension with its configuration."""
    return {"name": name, "typed_config": config}


def http_filter(name: str, message: str, **fields: Any) -> Yaml:
    """An HTTP filter of Envoy's own: the name after `envoy.filters.http.`, its message, its settings."""
    full = f"envoy.filters.http.{name}"
    return named(full, {"@type": f"{TYPES}extensions.filters.http.{name}.v3.{message}", **fields})


def rbac(policy: str, action: str, principal: Yaml) -> Yaml:
    """The filter that takes only, or takes none of, the requests of a principal: `action` is ALLOW or DENY."""
    policies = {policy: {"permissions": [{"any": True}], "principals": [principal]}}
    return http_filter("rbac", "RBAC", rules={"action": action, "policies": policies})


def header_is(name: str, **matcher: Any) -> Yaml:
    """The principal whose header is what `matcher`, a `StringMatcher`, says."""
    return {"header": {"name": name, "string_match": matcher}}


def address(host_and_port: str) -> Yaml:
    """Where to listen, or whom to call: host:port."""
    host, _, port = host_and_port.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
