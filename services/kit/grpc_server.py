"""A gRPC server on a socket: its limits, health and reflection, and the handlers that drive the chain."""

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.kit.call import Call
from services.kit.chain import Door, Endpoint, Registry
from services.kit.errors import ServiceError
from services.kit.status import to_status

# Channels retry what never reached a handler. An answer is an answer, UNAVAILABLE too: asking three times makes a slow
# backend slower, and the caller wait three times as long. Source: gRFC A6, server pushback.
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),  # a second process on the same port is a mistake, not a replica
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),  # gRPC's 4 MiB are too few for documents, or a turn's end
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1_000),  # on a connection, as Envoy assumes: with more calls, it opens another
    ("grpc.max_connection_age_ms", 600_000),  # callers look the name up again, and find new replicas
    ("grpc.max_connection_age_grace_ms", 960_000),  # the longest stream, `STREAM_TIMEOUT_S`, ends by itself
    ("grpc.http2.max_ping_strikes", 0),  # callers ping while calls wait: counted, that ends a call after 4 s
    ("grpc.keepalive_permit_without_calls", 1),
]


def grpc_server(registries: Sequence[Registry]) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server of these methods with health and reflection, neither bound nor started, and its health."""
    server = grpc.aio.server(options=OPTIONS)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    names = [name for registry in registries for name in registry.services]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    server.add_generic_rpc_handlers([_Handlers(registry) for registry in registries])
    return server, status


class _Handlers(grpc.GenericRpcHandler):
    """The socket's driver of the chain, and the door in front of it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # A stream's handler is called before any message is read, whatever the caller thinks that the method is.
        self._refused: Any = grpc.stream_stream_rpc_method_handler(_refused(registry.door)) if registry.door else None
        self._handlers: dict[str, Any] = {
            path: grpc.unary_stream_rpc_method_handler(_stream(endpoint))
            if endpoint.method.streams
            else grpc.unary_unary_rpc_method_handler(_unary(endpoint))
            for path, endpoint in registry.endpoints.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        handler, door = self._handlers.get(path), self._registry.door
        if handler and door and door.refuses(self._registry.endpoints[path].method):
            return self._refused
        return handler


def _call(endpoint: Endpoint, body: bytes, context: Any) -> Call:
    remaining = context.time_remaining()
    return Call(
        method=endpoint.method.path,
        metadata={key: value for key, value in context.invocation_metadata() if isinstance(value, str)},
        deadline=None if remaining is None else asyncio.get_running_loop().time() + remaining,
        peer=context.peer(),
        body=body,
    )


async def _refuse(context: Any, error: ServiceError) -> NoReturn:
    status = to_status(error)
    await context.abort(status.code, status.message, (*status.trailers, _NO_RETRY))
    raise AssertionError("abort returned")


def _refused(door: Door) -> Any:
    status = to_status(door.refusal)
    trailers = (*status.trailers, _NO_RETRY)

    async def behaviour(_requests: Any, context: Any) -> None:
        await context.abort(status.code, status.message, trailers)

    return behaviour


def _unary(endpoint: Endpoint) -> Any:
    async def behaviour(body: bytes, context: Any) -> bytes:
        call = _call(endpoint, body, context)
        try:
            reply = await endpoint.unary(call)
        except ServiceError as error:
            await _refuse(context, error)
        if call.reply_metadata:
            await context.send_initial_metadata(tuple(call.reply_metadata.items()))
        return reply

    return behaviour


def _stream(endpoint: Endpoint) -> Any:
    async def behaviour(body: bytes, context: Any) -> None:
        try:
            await endpoint.stream(_call(endpoint, body, context), context.write)
        except ServiceError as error:
            await _refuse(context, error)

    return behaviour
