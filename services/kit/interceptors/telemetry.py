"""A span and the numbers of each call: on OpenTelemetry's API, and lean where nothing is recorded.

Whether a trace is recorded is decided first; one that is not costs no span, only its id goes along for the logs. The
stock interceptors cost more than the calls they watch, and the client's loses cancellation: docs/adr/0004.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Histogram

from services.kit.call import Call
from services.kit.chain import Interceptor, Method, Proceed
from services.kit.errors import Code, ServiceError
from services.kit.telemetry import Telemetry, new_traceparent, traceparent_of

log = structlog.get_logger(__name__)
_SAMPLED = "-01"
_OURS = {Code.INTERNAL, Code.UNAVAILABLE}


def telemetry(reports: Telemetry) -> Interceptor:
    """Measures every call and continues the caller's trace."""
    propagator = TraceContextTextMapPropagator()
    seconds: dict[str, Histogram] = {}
    well_formed = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

    async def watched(call: Call, method: Method, proceed: Proceed) -> Any:
        if method.path not in seconds:
            seconds[method.path] = reports.calls.seconds.labels(method.path)
        given = call.metadata.get("traceparent", "")
        call.traceparent = given if well_formed.fullmatch(given) else new_traceparent(reports.sampled())
        began = time.perf_counter()
        with span_of(call, method) if reports.records and call.traceparent.endswith(_SAMPLED) else nullcontext():
            try:
                return await proceed(call)
            except ServiceError as error:
                _report(reports, method, error.code, error.reason)
                if error.code in _OURS:
                    log.warning("call failed", code=error.code, reason=error.reason, message=error.message)
                raise
            except asyncio.CancelledError:
                _report(reports, method, Code.CANCELLED, "CANCELLED")
                raise
            except Exception as error:
                _report(reports, method, Code.INTERNAL, type(error).__name__)
                raise
            finally:
                seconds[method.path].observe(time.perf_counter() - began)

    @contextmanager
    def span_of(call: Call, method: Method) -> Iterator[None]:
        context = propagator.extract({"traceparent": call.traceparent})
        kind, attributes = trace.SpanKind.SERVER, _attributes(method)
        with reports.tracer.start_as_current_span(
            method.path[1:], context, kind, attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            call.traceparent = traceparent_of(span)
            yield

    return watched


def _attributes(method: Method) -> dict[str, str]:
    service, name = method.path[1:].split("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}


def _report(reports: Telemetry, method: Method, code: Code, reason: str) -> None:
    reports.calls.errors.labels(method.path, code.value).inc()
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({"rpc.grpc.status_code": code.value, "error.type": reason})
        span.set_status(trace.StatusCode.ERROR)
