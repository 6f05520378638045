"""Pages in a browser: gRPC-Web, and which origins may call (CORS)."""

from edge import Edge
from shapes import TYPES, Yaml, http_filter

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


def browser_filters(edge: Edge) -> list[Yaml]:
    """gRPC-Web, and CORS where an origin may call.

    They stand first: a page must be able to read a refusal, and its preflight carries no token.
    """
    cors = [http_filter("cors", "Cors")] if edge.cors_origins else []
    return [*cors, http_filter("grpc_web", "GrpcWeb")]


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
