"""What is seen of a request: its trace, and its line in the access log."""

from edge import Edge
from shapes import TYPES, Yaml, named

COLLECTOR = "collector"
"""The cluster that spans go to."""

_PATH = "%PATH(NQ:ORIG_OR_PATH)%"
"""Of a request, without its query."""

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

    Whether it is recorded is the sampler's to say: Envoy's own share would also be taken of traces that callers began.
    """
    provider = {
        "@type": f"{TYPES}config.trace.v3.OpenTelemetryConfig",
        "service_name": "envoy",
        "grpc_service": {"envoy_grpc": {"cluster_name": COLLECTOR}, "timeout": "1s"},
        "sampler": _sampler(edge.trace_ratio if edge.collector else 0.0),
    }
    url = {"tag": "http.url", "value": _PATH}  # instead of Envoy's own, which has the query
    return {"tracing": {"provider": named("envoy.tracers.opentelemetry", provider), "custom_tags": [url]}}


def _sampler(ratio: float) -> Yaml:
    """The caller's decision; of traces that begin here, a share."""
    samplers = "envoy.tracers.opentelemetry.samplers"
    kinds = f"{TYPES}extensions.tracers.opentelemetry.samplers.v3"
    share = {"numerator": round(1_000_000 * ratio), "denominator": "MILLION"}
    by_ratio = {"@type": f"{kinds}.TraceIdRatioBasedSamplerConfig", "sampling_percentage": share}
    root = named(f"{samplers}.trace_id_ratio_based", by_ratio)
    by_parent = {"@type": f"{kinds}.ParentBasedSamplerConfig", "wrapped_sampler": root}
    return named(f"{samplers}.parent_based", by_parent)
