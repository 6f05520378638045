"""Calls to other services: deadline, identity and trace go along, errors come back as the classes they were.

A thin object around a generated stub's methods rather than channel interceptors: grpc.aio wraps an intercepted call
in a task of its own, which costs more than the call's own work and is where cancellation gets lost.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import descriptor_pb2
from grpc.aio import AioRpcError, Channel

from services.kit import topology
from services.kit.call import current_call
from services.kit.chain import Registry
from services.kit.contracts import contract
from services.kit.errors import DeadlineExceeded
from services.kit.inproc import InprocChannel
from services.kit.interceptors.identity import metadata_of
from services.kit.status import from_rpc_error
from services.kit.tls import Certificates, RenewedChannel

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
# While calls wait, a replica that stands still is found within 3.5 s, and calls go to the others. Without a timeout of
# its own, a ping by which gRPC measures the line stays unanswered for a minute, and keeps those of keepalive back.
_PINGS = (
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.http2.ping_timeout_ms", 1_500),
    ("grpc.http2.max_pings_without_data", 0),
)
# What is not ours may close the connection of a client that pings more often.
_RARE_PINGS = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 5_000))
_MIB = 1024 * 1024


class Client:
    """Calls one service."""

    def __init__(self, service: str, channel: Channel, mesh_token: str | None) -> None:
        """Calls `service` over `channel`, proving to be of the mesh with `mesh_token`.

        What is no service of ours, as Triton, learns neither the token nor on whose behalf it is called.
        """
        self.service = service
        self.channel = channel
        self._mesh_token = mesh_token
        self._ours = service in topology.SERVICES

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
        metadata = metadata_of(call.principal, self._mesh_token) if self._ours and call and call.principal else []
        if call and call.traceparent:
            metadata.append(("traceparent", call.traceparent))
        return metadata


class Network:
    """Where services are. One channel per address and process; the address `inproc:` is this process."""

    def __init__(self, mesh_token: str | None, certificates: Certificates | None = None) -> None:
        """Opens nothing yet.

        Args:
            mesh_token: Proves calls to be of the mesh. None: there is none.
            certificates: Calls to services of ours go over TLS, to a peer with a certificate that names the service.
                None: no TLS.
        """
        self.inproc: dict[str, Registry] = {}
        self._mesh_token = mesh_token
        self._certificates = certificates
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
        options = channel_options(service)
        if self._certificates is None or service not in topology.SERVICES:
            return grpc.aio.insecure_channel(address, options=options)
        # An address may stand for several replicas, and is not what a certificate is for: it names the service.
        options.append(("grpc.ssl_target_name_override", service))
        return RenewedChannel(
            self._certificates, lambda credentials: grpc.aio.secure_channel(address, credentials, options=options)
        )


def channel_options(service: str, pauses_ms: tuple[int, int] = (200, 1_000)) -> list[tuple[str, Any]]:
    """How a channel to a service behaves; `pauses_ms`: the first and the longest one before it connects again."""
    first, longest = pauses_ms
    return [
        ("grpc.service_config", json.dumps(service_config(service))),
        ("grpc.max_receive_message_length", 16 * _MIB),
        *(_PINGS if service in topology.SERVICES else _RARE_PINGS),
        ("grpc.initial_reconnect_backoff_ms", first),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", longest),
        ("grpc.use_local_subchannel_pool", 1),
    ]


def service_config(service: str) -> Mapping[str, Any]:
    """Retries by gRPC itself, for the methods whose contract says that repeating them is safe, under a retry budget.

    Source: gRFC A6. A method says so by `idempotency_level`.
    """
    row = topology.SERVICES.get(service)
    if row is None:
        return {}
    unknown = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
    safe = [
        method.name
        for method in contract(row.proto_service).methods
        if method.GetOptions().idempotency_level != unknown
    ]
    names = [{"service": row.proto_service, "method": method} for method in safe]
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": _RETRIES}] if names else [],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
