"""TLS: towards clients, and towards the services."""

from edge import Edge
from sds import secret
from shapes import TYPES, Yaml, named

_NAME = "envoy.transport_sockets.tls"
_OLDEST = {"tls_minimum_protocol_version": "TLSv1_2"}


def downstream(edge: Edge) -> Yaml:
    """The part of a filter chain that speaks TLS to clients; empty where the port speaks plain text."""
    if edge.tls is None:
        return {}
    common = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": _OLDEST,
        "tls_certificate_sds_secret_configs": [secret(edge, "edge_certificate")],
    }
    context = {
        "@type": f"{TYPES}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common,
    }
    return {"transport_socket": named(_NAME, context), "transport_socket_connect_timeout": "10s"}


def upstream(edge: Edge, service: str) -> Yaml:
    """The part of a cluster that speaks mutual TLS to a service, whose certificate must name it."""
    if edge.upstream_tls is None:
        return {}
    names = [{"san_type": "DNS", "matcher": {"exact": service}}]
    common = {
        "alpn_protocols": ["h2"],
        "tls_params": _OLDEST,
        "tls_certificate_sds_secret_configs": [secret(edge, "mesh_certificate")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": secret(edge, "mesh_authority"),
        },
    }
    context = {
        "@type": f"{TYPES}extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": service,
        "common_tls_context": common,
    }
    return {"transport_socket": named(_NAME, context)}
