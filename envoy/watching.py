"""What is seen of a request: its trace, and its line in the access log."""

from edge import Edge
from shapes import TYPES, Yaml, named

COLLECTOR = "collector"
"""The cluster that spans go to."""

_PATH = "%PATH(NQ:ORIG_OR_PATH)%"
"""Of a request, without its query."""

_SAMPLERS = "envoy.tracers.opentelemetry.samplers"
_KINDS = f"{TYPES}extensions.tracers.opentelemetry.samplers.v3"

_LINE = {
    "time": "%START_TIME%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "path": _PATH,
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS(CAMEL_STRING)%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "upstream": "%UPSTREAM_HOST%",
    "tenant": "%REQ(X-MYRIAD-TENANT)%",
    "user": "%REQ(X-MYRIAD-USER)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
}
"""No query and no header that may hold a secret."""


def access_log(edge: Edge) -> Yaml:
    """A JSON object for each request."""
    if edge.access_log is None:
        return {}
    kind = f"{TYPES}extensions.access_loggers.file.v3.FileAccessLog"
    logger = {"@type": kind, "path": edge.access_log, "log_format": {"json_format": _LINE}}
    return {"access_log": [named("envoy.access_loggers.file", logger)]}


def tracing(edge: Edge) -> Yaml:
    """Continues the caller's trace (W3C Trace Context) or begins one; its id is passed on whether recorded or not.

    Whether it is recorded is the sampler's to say. Only proxies in front that are trusted may decide it for their
    traces; a stranger could have all of them recorded. Of a stranger's trace only the id goes on, not its state.
    """
    ratio = edge.trace_ratio if edge.collector else 0.0
    provider = {
        "@type": f"{TYPES}config.trace.v3.OpenTelemetryConfig",
        "service_name": "envoy",
        "grpc_service": {"envoy_grpc": {"cluster_name": COLLECTOR}, "timeout": "1s"},
        "sampler": _of_trusted(ratio) if edge.trusted_hops else _of_strangers(ratio),
    }
    url = {"tag": "http.url", "value": _PATH}  # instead of Envoy's own, which has the query
    return {"tracing": {"provider": named("envoy.tracers.opentelemetry", provider), "custom_tags": [url]}}


def unsampled_parent() -> Yaml:
    """The change to a header that leaves of a stranger's `traceparent` only the ids: it asks for no recording.

    Envoy passes on what it cannot read as a parent, and a service may read it: a later version, with more behind it.
    """
    header = {"key": "traceparent", "value": "%REQ(TRACEPARENT):53%00"}
    return {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS"}}


def _of_strangers(ratio: float) -> Yaml:
    """A share, by the id that Envoy itself gives each request: callers choose the ids of their traces.

    The id begins with 32 random bits in hexadecimal digits, so as text it is below the share of their range as often.
    """
    below = round(ratio * 16**8)
    limit = f"{below:08x}" if below < 16**8 else "g"  # above every digit
    request_id = {"select_expr": {"operand": {"ident_expr": {"name": "request"}}, "field": "id"}}
    less = {"function": "_<_", "args": [request_id, {"const_expr": {"string_value": limit}}]}
    kind = f"{_KINDS}.CELSamplerConfig"
    expression = {"cel_expr_parsed": {"expr": {"call_expr": less}}}
    return named(f"{_SAMPLERS}.cel", {"@type": kind, "expression": expression})


def _of_trusted(ratio: float) -> Yaml:
    """The caller's decision; of traces that begin here, a share."""
    share = {"numerator": round(1_000_000 * ratio), "denominator": "MILLION"}
    by_ratio = {"@type": f"{_KINDS}.TraceIdRatioBasedSamplerConfig", "sampling_percentage": share}
    root = named(f"{_SAMPLERS}.trace_id_ratio_based", by_ratio)
    by_parent = {"@type": f"{_KINDS}.ParentBasedSamplerConfig", "wrapped_sampler": root}
    return named(f"{_SAMPLERS}.parent_based", by_parent)
