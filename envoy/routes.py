"""One route per public method; everything else is answered by Envoy, and never reaches a service.

A route matches the method's gRPC path. The transcoder turns a JSON request into a gRPC one by the HTTP annotation in
the descriptors and looks for the route afterwards, so the same route serves both, and paths are written once.
"""

from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from shapes import TYPES, Yaml, named

from myriad.common.v1 import common_pb2
from services.kit.contracts import contract
from services.kit.topology import STREAM_TIMEOUT_S, Service

MAX_REQUEST_BYTES = 256 * 1024
"""Longest request."""

SILENCE_S = 300
"""How long a stream may be silent, in seconds. A run's stream sends a heartbeat every 15 s."""


def public_methods(service: Service) -> list[MethodDescriptor]:
    """The methods of `service` that carry the access option, in the order of the proto."""
    return [method for method in contract(service.proto_service).methods if _is_public(method)]


def _is_public(method: MethodDescriptor) -> bool:
    options: Any = method.GetOptions()
    return bool(options.HasExtension(common_pb2.access))


def elsewhere() -> Yaml:
    """The last route: no service. A JSON request is here until the transcoder has made it a call of a method.

    It names a cluster that there is not, since filters ask nothing of a route that answers by itself.
    """
    return {
        "name": "elsewhere",
        "match": {"prefix": "/"},
        "route": {"cluster": "nowhere", "cluster_not_found_response_code": "NOT_FOUND"},
        "typed_per_filter_config": _buffered(),
    }


def route(service: Service, method: MethodDescriptor) -> Yaml:
    """The route of one public method.

    Whatever deadline the caller names is cut to the method's; a caller who names none, as JSON callers do, gets it,
    so that every call reaches the service with a deadline. Where one message is all that is sent, Envoy waits for the
    whole of it, and limits it.
    """
    seconds = round(STREAM_TIMEOUT_S if method.server_streaming else service.timeout_s)
    return {
        "name": method.name,
        "match": {"path": f"/{service.proto_service}/{method.name}", "headers": [_content_type()]},
        "request_headers_to_add": [
            {"header": {"key": "grpc-timeout", "value": f"{seconds}S"}, "append_action": "ADD_IF_ABSENT"}
        ],
        "route": {"cluster": service.name, **_limits(method, seconds), "retry_policy": _retry_policy()},
        **({} if method.client_streaming else {"typed_per_filter_config": _buffered()}),
    }


def _buffered() -> Yaml:
    kind = f"{TYPES}extensions.filters.http.buffer.v3.BufferPerRoute"
    return {"envoy.filters.http.buffer": {"@type": kind, "buffer": {"max_request_bytes": MAX_REQUEST_BYTES}}}


def _content_type() -> Yaml:
    """gRPC, and gRPC-Web, which the matcher that Envoy has for gRPC leaves out."""
    return {"name": "content-type", "string_match": {"prefix": "application/grpc"}}


def _limits(method: MethodDescriptor, seconds: int) -> Yaml:
    if method.server_streaming:
        duration = {"max_stream_duration": f"{seconds}s", "grpc_timeout_header_max": f"{seconds}s"}
        return {"timeout": "0s", "idle_timeout": f"{SILENCE_S}s", "max_stream_duration": duration}
    return {"timeout": f"{seconds}s", "max_stream_duration": {"grpc_timeout_header_max": f"{seconds}s"}}


def _retry_policy() -> Yaml:
    """Only what certainly did not begin is tried again, by another replica: all else is the caller's to repeat."""
    elsewhere = {"@type": f"{TYPES}extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}
    return {
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
        "retry_host_predicate": [named("envoy.retry_host_predicates.previous_hosts", elsewhere)],
        # A replica that died has no calls under way, and is the balancer's first choice again and again.
        "host_selection_retry_max_attempts": 5,
    }
