"""Pages in a browser: gRPC-Web, which origins may call (CORS), and what keeps all others out where no token does."""

from edge import Edge
from shapes import TYPES, Yaml, header_is, http_filter, rbac

_METHODS = "GET, POST, PUT, PATCH, DELETE"
_SENT = (
    "authorization",
    "content-type",
    "grpc-timeout",
    "traceparent",
    "tracestate",
    "x-grpc-web",
    "x-user-agent",
)
_READ = ("grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id")
_PREFLIGHT_S = 600
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def browser_filters(edge: Edge) -> list[Yaml]:
    """gRPC-Web, and CORS where an origin may call.

    They stand first: a page must be able to read a refusal, and its preflight carries no token.
    """
    cors = [http_filter("cors", "Cors")] if edge.cors_origins else []
    return [*cors, http_filter("grpc_web", "GrpcWeb")]


def stranger_filters(edge: Edge) -> list[Yaml]:
    """What keeps pages out where no token is asked for: any page that this machine's browser shows could call.

    A page whose name was made to lead here (DNS rebinding) calls by that name. A page of another origin needs no
    preflight for a plain POST, but its browser says where it is from.
    """
    if edge.jwt is not None:
        return []
    hosts = (*_LOOPBACK, *edge.hosts)
    port = edge.listen.rpartition(":")[2]
    own = [f"{scheme}://{host}:{port}" for scheme in ("http", "https") for host in hosts]
    origins = [header_is("origin", exact=origin) for origin in (*own, *edge.cors_origins)]
    no_origin = {"not_id": {"header": {"name": "origin", "present_match": True}}}
    named_so = [header_is(":authority", exact=host, ignore_case=True) for host in hosts]
    return [
        rbac("known_host", "ALLOW", {"or_ids": {"ids": named_so}}),
        rbac("known_origin", "ALLOW", {"or_ids": {"ids": [no_origin, *origins]}}),
    ]


def cors_policy(edge: Edge) -> Yaml:
    """The part of a virtual host that says which origins may call. Tokens travel in a header, so no credentials."""
    if not edge.cors_origins:
        return {}
    policy = {
        "@type": f"{TYPES}extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in edge.cors_origins],
        "allow_methods": _METHODS,
        "allow_headers": ", ".join(_SENT),
        "expose_headers": ", ".join(_READ),
        "max_age": str(_PREFLIGHT_S),
    }
    return {"typed_per_filter_config": {"envoy.filters.http.cors": policy}}
