"""The services Envoy calls: how their replicas are found, judged and protected."""

from typing import Any

from edge import Edge
from shapes import TYPES, Yaml, address, named
from sockets import upstream

from services.kit.topology import MOST_HELD, Service

BUFFER_BYTES = 32 * 1024
"""How much of a connection's data waits in Envoy before the sender is made to wait, each way."""


def cluster(edge: Edge, service: Service) -> Yaml:
    """The replicas of a service, found by DNS: one record for each, so that each gets its share of the calls."""
    endpoints = [{"endpoint": {"address": address(replica)}} for replica in edge.clusters[service.name]]
    return {
        "name": service.name,
        **_found_by_dns(),
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": service.name, "endpoints": [{"lb_endpoints": endpoints}]},
        **upstream(edge, service.name),
        **_health(service),
        **_limits(),
    }


def _found_by_dns() -> Yaml:
    kind = f"{TYPES}extensions.clusters.dns.v3.DnsCluster"
    settings = {"@type": kind, "dns_lookup_family": "V4_PREFERRED", "dns_refresh_rate": "5s"}
    return {"cluster_type": named("envoy.cluster.dns", settings)}


def collector(name: str, where: str | None) -> Yaml:
    """Where spans go. Envoy's tracer insists on a cluster: without a collector it has no address."""
    endpoints = [{"endpoint": {"address": address(where)}}] if where else []
    return {
        "name": name,
        **_found_by_dns(),
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **_http2({}),
    }


def _http2(settings: Yaml, **common: Any) -> Yaml:
    """The part of a cluster that says how HTTP/2 is spoken to it."""
    name = "extensions.upstreams.http.v3.HttpProtocolOptions"
    explicit = {"explicit_http_config": {"http2_protocol_options": settings}}
    return {"typed_extension_protocol_options": {f"envoy.{name}": {"@type": f"{TYPES}{name}", **common, **explicit}}}


def _health(service: Service) -> Yaml:
    """Which replicas are used. Never one that is known to be dead, not even when it is the only one.

    It is asked for by the service's name: in a process of several the others may lack what this one can do without.

    A reply is a sign of life whatever its status, so only failures to reach a replica eject it, and calls that break
    off without one: an UNAVAILABLE for want of a store that all replicas share says nothing of the one that sent it.
    """
    return {
        # What changes counts at once: by default changes of a second are put together.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "health_checks": [
            {
                # A replica that stands still is found so within 2 x (0.5 + 1) seconds.
                "timeout": "1s",
                "interval": "0.5s",
                "unhealthy_interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "no_traffic_healthy_interval": "0.5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": service.proto_service},
            }
        ],
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            # Envoy counts a call that is broken off twice: it was taken, and it failed. Half is all there can be.
            "enforcing_failure_percentage_local_origin": 100,
            "failure_percentage_threshold": 40,
            "failure_percentage_minimum_hosts": 2,
            "failure_percentage_request_volume": 10,
            "interval": "2s",
            "base_ejection_time": "10s",
            "max_ejection_percent": 50,
            "successful_active_health_check_uneject_host": False,  # who says it is well may yet break off every call
        },
    }


def _limits() -> Yaml:
    """How much is sent to a service at once. Envoy's defaults would end at 1,024 requests."""
    threshold = {
        "priority": "DEFAULT",
        "max_connections": 64,
        "max_pending_requests": 256,
        "max_requests": MOST_HELD,
        "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3},
        "track_remaining": True,
    }
    http2 = {
        "max_concurrent_streams": 1000,
        "initial_stream_window_size": 65536,
        "initial_connection_window_size": 1048576,
        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
    }
    return {
        "circuit_breakers": {"thresholds": [threshold]},
        **_http2(http2, common_http_protocol_options={"idle_timeout": "300s"}),
    }
