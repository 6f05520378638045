"""The issuer's public keys, from a file that may be replaced while Envoy runs.

The filter that verifies tokens reads a key set of its own only once, at the start, but asks again for one that it gets
by HTTP. So a listener inside the process, which no network reaches, serves the file, which Envoy watches.
"""

from edge import Edge, Jwt
from shapes import TYPES, Yaml, http_filter, named

FRESH_S = 2
"""How long keys are used before they are asked for again, in seconds; a replaced file counts from then on."""

MAX_BYTES = 64 * 1024

_NAME = "keys"


def key_source(jwt: Jwt) -> Yaml:
    """The part of a provider that says where its keys are."""
    uri = {"uri": f"http://{_NAME}/{_NAME}", "cluster": _NAME, "timeout": "1s"}
    return {"remote_jwks": {"http_uri": uri, "cache_duration": f"{FRESH_S}s"}}


def key_listeners(edge: Edge) -> list[Yaml]:
    """The listener inside the process."""
    if edge.jwt is None:
        return []
    file = {"filename": edge.jwt.jwks, "watched_directory": {"path": edge.jwt.jwks.rpartition("/")[0]}}
    route = {"match": {"path": f"/{_NAME}"}, "direct_response": {"status": 200, "body": file}}
    manager = {
        "@type": f"{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": _NAME,
        "route_config": {
            "name": _NAME,
            "max_direct_response_body_size_bytes": MAX_BYTES,
            "virtual_hosts": [{"name": _NAME, "domains": ["*"], "routes": [route]}],
        },
        "http_filters": [http_filter("router", "Router")],
    }
    chain = {"filters": [named("envoy.filters.network.http_connection_manager", manager)]}
    return [{"name": _NAME, "internal_listener": {}, "filter_chains": [chain]}]


def key_clusters(edge: Edge) -> list[Yaml]:
    """How the filter reaches that listener."""
    if edge.jwt is None:
        return []
    endpoint = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": _NAME}}}}
    assignment = {"cluster_name": _NAME, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return [{"name": _NAME, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}]


def internal_listeners() -> Yaml:
    """Turns listeners inside the process on."""
    kind = f"{TYPES}extensions.bootstrap.internal_listener.v3.InternalListener"
    return {"bootstrap_extensions": [named("envoy.bootstrap.internal_listener", {"@type": kind})]}
