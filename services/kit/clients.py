"""Calls to other services: deadline, identity and trace go along, errors come back as the classes they were.

A thin object around a generated stub's methods rather than channel interceptors: grpc.aio wraps an intercepted call
in a task of its own, which costs more than the call's own work and is where cancellation gets lost.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc.aio import AioRpcError, Channel

from services.kit import topology
from services.kit.call import current_call
from services.kit.chain import Registry
from services.kit.errors import DeadlineExceeded
from services.kit.inproc import InprocChannel
from services.kit.interceptors.identity import metadata_of
from services.kit.status import from_rpc_error

if TYPE_CHECKING:
    from grpc.aio import UnaryStreamMultiCallable, UnaryUnaryMultiCallable

Request = TypeVar("Request")
Reply = TypeVar("Reply")

INPROC = "inproc:"
_MARGIN_S = 0.02
_RETRIES = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_MIB = 1024 * 1024


class Client:
    """Calls one service."""

    def __init__(self, service: str, channel: Channel, mesh_token: str | None) -> None:
        """Calls `service` over `channel`, proving to be of the mesh with `mesh_token`."""
        self.service = service
        self.channel = channel
        self._mesh_token = mesh_token

    async def unary(
        self, method: "UnaryUnaryMultiCallable[Request, Reply]", request: Request, *, timeout: float
    ) -> Reply:
        """Calls a method with one reply.

        Args:
            method: A method of a generated stub on this client's channel.
            request: The request.
            timeout: Seconds to wait; less when the call this task works for has less left.

        Raises:
            ServiceError: what the service raised; ServiceUnavailable when it does not answer.
        """
        call = self.start(method, request, timeout=timeout)
        try:
            return await call  # type: ignore[no-any-return]
        except AioRpcError as error:
            raise from_rpc_error(error, self.service) from None

    async def stream(
        self, method: "UnaryStreamMultiCallable[Request, Reply]", request: Request, *, timeout: float
    ) -> AsyncGenerator[Reply]:
        """Calls a method with a stream of replies. Leaving the iteration cancels the call.

        Args:
            method: A method of a generated stub on this client's channel.
            request: The request.
            timeout: Seconds the whole stream may take; less when the call this task works for has less left.

        Raises:
            ServiceError: what the service raised; ServiceUnavailable when it does not answer.
        """
        call = self.start(method, request, timeout=timeout)
        try:
            async for reply in call:
                yield reply
        except AioRpcError as error:
            raise from_rpc_error(error, self.service) from None
        finally:
            call.cancel()

    def start(self, method: Any, request: Any, *, timeout: float) -> Any:
        """Begins a call and leaves the rest, cancelling included, to the caller.

        Args:
            method: A method of a generated stub on this client's channel.
            request: The request, or an iterator of requests.
            timeout: Seconds; less when the call this task works for has less left.

        Raises:
            DeadlineExceeded: no time is left.
        """
        return method(request, timeout=self._time_for(timeout), metadata=self._metadata())

    def _time_for(self, timeout: float) -> float:
        call = current_call()
        left = call.remaining() if call else None
        if left is not None:
            timeout = min(timeout, left - min(_MARGIN_S, left / 10))
        if timeout <= 0:
            raise DeadlineExceeded(f"no time was left to call {self.service}")
        return timeout

    def _metadata(self) -> list[tuple[str, str]]:
        call = current_call()
        metadata = metadata_of(call.principal, self._mesh_token) if call and call.principal else []
        if call and call.traceparent:
            metadata.append(("traceparent", call.traceparent))
        return metadata


class Network:
    """Where services are. One channel per address and process; the address `inproc:` is this process."""

    def __init__(self, mesh_token: str | None) -> None:
        """Opens nothing yet. `mesh_token` proves calls to be of the mesh; None: there is none."""
        self.inproc: dict[str, Registry] = {}
        self._mesh_token = mesh_token
        self._channels: dict[tuple[str, str], Channel] = {}

    def client(self, service: str, address: str) -> Client:
        """A client of `service` (a name of the topology) at `address` (`host:port`, or `inproc:`)."""
        key = (service, address)
        if key not in self._channels:
            self._channels[key] = self._open(service, address)
        return Client(service, self._channels[key], self._mesh_token)

    async def close(self) -> None:
        """Closes every channel; calls under way are cancelled."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        self._channels.clear()

    def _open(self, service: str, address: str) -> Channel:
        if address == INPROC:
            return InprocChannel(self.inproc, service)
        options: list[tuple[str, Any]] = [
            ("grpc.service_config", json.dumps(service_config(service))),
            ("grpc.max_receive_message_length", 16 * _MIB),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        return grpc.aio.insecure_channel(address, options=options)


def service_config(service: str) -> Mapping[str, Any]:
    """Retries by gRPC itself, for the methods whose contract says that repeating them is safe, under a retry budget.

    Source: gRFC A6. A method says so by `idempotency_level`.
    """
    row = topology.SERVICES.get(service)
    if row is None:
        return {}
    described = descriptor_pool.Default().FindServiceByName(row.proto_service)
    unknown = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
    safe = [method.name for method in described.methods if method.GetOptions().idempotency_level != unknown]
    names = [{"service": row.proto_service, "method": method} for method in safe]
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": _RETRIES}] if names else [],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
