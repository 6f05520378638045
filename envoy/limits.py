"""What a stranger's connection may do, and what the process gives up first when it runs short."""

from edge import Edge
from shapes import TYPES, Yaml, http_filter, named

from services.kit.interceptors.identity import TENANT

MAX_HEAP_BYTES = 1024 * 1024 * 1024
"""Memory beyond which Envoy sheds load; the container's limit is above it."""

MAX_TENANTS = 10_000
"""Tenants whose requests are counted at once; beyond that the one that was silent longest is forgotten."""

_HEAP = "envoy.resource_monitors.fixed_heap"


def protocol_limits() -> Yaml:
    """Sizes, counts and times of connections: Envoy's advice for an edge proxy, most of it tightened."""
    return {
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": 16,
        "request_headers_timeout": "10s",
        "request_timeout": "60s",  # for a request to arrive whole; its answer may take longer
        "stream_idle_timeout": "300s",
        "delayed_close_timeout": "1s",
        "drain_timeout": "5s",
        "common_http_protocol_options": {
            "idle_timeout": "900s",
            "max_connection_duration": "3600s",
            "max_headers_count": 64,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
            "max_inbound_priority_frames_per_stream": 10,
            "max_consecutive_inbound_frames_with_empty_payload": 1,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
    }


def tenant_filters(edge: Edge) -> list[Yaml]:
    """Limits the requests of each tenant, which the header names that a verified token set.

    Each tenant has a bucket of its own, made when its first request comes: one that is over its limit harms no other.
    """
    if edge.tenant_rps is None:
        return []
    bucket = {"max_tokens": edge.tenant_rps, "tokens_per_fill": edge.tenant_rps, "fill_interval": "1s"}
    action = {"request_headers": {"header_name": TENANT, "descriptor_key": "tenant"}}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return [
        http_filter(
            "local_ratelimit",
            "LocalRateLimit",
            stat_prefix="tenant",
            filter_enabled=always,
            filter_enforced=always,
            rate_limits=[{"actions": [action]}],
            descriptors=[{"entries": [{"key": "tenant"}], "token_bucket": bucket}],
            max_dynamic_descriptors=MAX_TENANTS,
        )
    ]


def overload_manager(edge: Edge) -> Yaml:
    """What is given up when memory or connections run out, cheapest first."""
    monitors = f"{TYPES}extensions.resource_monitors"
    heap = {"@type": f"{monitors}.fixed_heap.v3.FixedHeapConfig", "max_heap_size_bytes": MAX_HEAP_BYTES}
    connections = {
        "@type": f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": edge.max_connections,
    }
    growing = {"name": _HEAP, "scaled": {"scaling_threshold": 0.85, "saturation_threshold": 0.95}}
    idle = {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "2s"}
    timers = {"@type": f"{TYPES}config.overload.v3.ScaleTimersOverloadActionConfig", "timer_scale_factors": [idle]}
    return {
        "refresh_interval": "0.25s",
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "resource_monitors": [
            named(_HEAP, heap),
            named("envoy.resource_monitors.global_downstream_max_connections", connections),
        ],
        "actions": [
            _when_heap_is("envoy.overload_actions.shrink_heap", 0.90),
            {"name": "envoy.overload_actions.reduce_timeouts", "triggers": [growing], "typed_config": timers},
            {"name": "envoy.overload_actions.reset_high_memory_stream", "triggers": [growing]},
            _when_heap_is("envoy.overload_actions.disable_http_keepalive", 0.92),
            _when_heap_is("envoy.overload_actions.stop_accepting_requests", 0.95),
        ],
        "loadshed_points": [
            _when_heap_is("envoy.load_shed_points.tcp_listener_accept", 0.95),
            _when_heap_is("envoy.load_shed_points.http_connection_manager_decode_headers", 0.95),
            _when_heap_is("envoy.load_shed_points.http2_server_go_away_on_dispatch", 0.97),
        ],
    }


def runtime() -> Yaml:
    """Guards against HTTP/2 rapid reset (a connection that opens and drops streams is closed) and costly patterns."""
    guards = {
        "http.max_requests_per_io_cycle": 1,
        "overload.premature_reset_total_stream_count": 500,
        "overload.premature_reset_min_stream_lifetime_seconds": 1,
        "re2.max_program_size.error_level": 100,
    }
    return {"layers": [{"name": "static", "static_layer": guards}]}


def _when_heap_is(name: str, threshold: float) -> Yaml:
    return {"name": name, "triggers": [{"name": _HEAP, "threshold": {"value": threshold}}]}
