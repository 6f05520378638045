"""A span and the numbers of each call: on OpenTelemetry's API, lean where nothing is recorded.

The stock interceptors cost more than the calls they watch, and the client's loses cancellation:
docs/adr/0004 and tests/contract/test_cancellation.py.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.kit.call import Call
from services.kit.chain import Interceptor, Method
from services.kit.errors import Code, ServiceError
from services.kit.telemetry import Telemetry

log = structlog.get_logger(__name__)
_OURS = {Code.INTERNAL, Code.UNAVAILABLE}


def telemetry(reports: Telemetry) -> Interceptor:
    """Measures every call and continues the caller's trace."""
    propagator = TraceContextTextMapPropagator()
    seconds = {}

    @asynccontextmanager
    async def watched(call: Call, method: Method) -> AsyncIterator[None]:
        if method.path not in seconds:
            seconds[method.path] = reports.calls.seconds.labels(method.path)
        context = propagator.extract(call.metadata) if "traceparent" in call.metadata else None
        service, name = method.path.rsplit("/", 1)
        began = time.perf_counter()
        with reports.tracer.start_as_current_span(
            method.path[1:], context, trace.SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            if span.is_recording():
                span.set_attributes({"rpc.system": "grpc", "rpc.service": service[1:], "rpc.method": name})
            try:
                yield
            except ServiceError as error:
                _report(reports, span, method, error.code, error.reason)
                if error.code in _OURS:
                    log.warning("call failed", code=error.code, reason=error.reason, message=error.message)
                raise
            except Exception as error:
                span.record_exception(error)
                _report(reports, span, method, Code.INTERNAL, type(error).__name__)
                raise
            except asyncio.CancelledError:
                _report(reports, span, method, Code.CANCELLED, "CANCELLED")
                raise
            finally:
                seconds[method.path].observe(time.perf_counter() - began)

    return watched


def _report(reports: Telemetry, span: trace.Span, method: Method, code: Code, reason: str) -> None:
    reports.calls.errors.labels(method.path, code.value).inc()
    if span.is_recording():
        span.set_attributes({"rpc.grpc.status_code": code.value, "error.type": reason})
        span.set_status(trace.StatusCode.ERROR)
