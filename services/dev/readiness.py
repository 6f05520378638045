"""How to see that a part answers: one probe per kind of part."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable

Probe = Callable[[], Awaitable[None]]
"""Returns when its part answers; raises NotReady or OSError when it does not."""

ATTEMPT_S = 2.0
"""How long one try of a probe may take."""

EVERY_S = 0.1
"""Time between two tries."""

_MEMBERS = re.compile(r"^cluster\.(\w+)\.membership_(healthy|total): (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Tls:
    """How to speak with a server of ours that asks for a certificate."""

    authority: Path
    certificate: Path
    key: Path
    name: str
    """What the server's certificate must say: the service's name, as its address does not tell which it is."""

    def channel(self, address: str) -> grpc.aio.Channel:
        """A channel to the server. The files are read now: they may have been made since the plan."""
        files = (self.authority, self.key, self.certificate)
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        options = [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", self.name)]
        return grpc.aio.secure_channel(address, credentials, options=options)


class NotReady(Exception):
    """The part does not answer as it should. The message says what was seen."""


async def check(probe: Probe) -> None:
    """Tries a probe once.

    Raises:
        NotReady: in every case of failure.
    """
    try:
        async with asyncio.timeout(ATTEMPT_S):
            await probe()
    except TimeoutError:
        raise NotReady("no answer") from None
    except OSError:
        raise NotReady("nothing listens") from None


async def until_ready(probe: Probe, timeout_s: float) -> None:
    """Tries a probe until it passes.

    Raises:
        NotReady: it did not within `timeout_s` seconds. Carries what was seen last.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while True:
        try:
            return await check(probe)
        except NotReady as error:
            if loop.time() > end:
                raise NotReady(f"not ready after {timeout_s:.0f} s: {error}") from None
        await asyncio.sleep(EVERY_S)


def valkey(address: str) -> Probe:
    """PING is answered with PONG: it is up, and has read its data."""

    async def probe() -> None:
        reply = await _exchange(address, b"PING\r\n", 4096)
        if not reply.startswith(b"+PONG"):
            raise NotReady(reply.decode(errors="replace").strip() or "closed the connection")

    return probe


def health(address: str, *services: str, tls: Tls | None = None) -> Probe:
    """grpc.health.v1 says SERVING of each of `services` (full names), or of the whole server when none is named."""

    async def probe() -> None:
        for service in services or ("",):
            request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            reply = await _call(address, "/grpc.health.v1.Health/Check", request, tls)
            status = health_pb2.HealthCheckResponse.FromString(reply).status
            if status != health_pb2.HealthCheckResponse.SERVING:
                raise NotReady("waits for what it needs")

    return probe


def milvus(address: str) -> Probe:
    """Milvus answers which collections it has; the embedded one does not say its version."""

    async def probe() -> None:
        await _call(address, "/milvus.proto.milvus.MilvusService/ShowCollections", b"")

    return probe


def http(address: str, path: str) -> Probe:
    """GET of `path` answers 200."""

    async def probe() -> None:
        await _get(address, path)

    return probe


def replicas(admin: str) -> Probe:
    """The Envoy whose admin port this is uses every replica it was told of: each was found well by its own checks."""

    async def probe() -> None:
        told = await _get(admin, "/stats?filter=membership_")
        found = {(cluster, kind): int(count) for cluster, kind, count in _MEMBERS.findall(told)}
        if not any(count for (_, kind), count in found.items() if kind == "total"):
            raise NotReady("knows of no replica")
        lacking = sorted(name for name, kind in found if found[name, "healthy"] < found[name, "total"])
        if lacking:
            raise NotReady(f"does not reach every replica of {', '.join(dict.fromkeys(lacking))}")

    return probe


async def _get(address: str, path: str) -> str:
    """What a GET is answered with, status and all.

    Raises:
        NotReady: the status is not 200.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    reply = (await _exchange(address, request.encode(), -1)).decode(errors="replace")
    status = reply.partition("\r\n")[0]
    if status.split(" ")[1:2] != ["200"]:
        raise NotReady(f"answers {status or 'nothing'}")
    return reply


async def _exchange(address: str, request: bytes, size: int) -> bytes:
    """Sends bytes; returns the first that come back, at most `size`, or with -1 all until the other side closes."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read(size)
    finally:
        writer.close()


async def _call(address: str, method: str, request: bytes, tls: Tls | None = None) -> bytes:
    """Calls a unary gRPC method with bytes.

    Raises:
        NotReady: it was refused.
    """
    # A channel waits a second after a failed connect; looking first whether something listens does not.
    await _connect(address)
    options = [("grpc.enable_http_proxy", 0)]
    async with tls.channel(address) if tls else grpc.aio.insecure_channel(address, options=options) as channel:
        try:
            call: UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            return await call(request, timeout=ATTEMPT_S)
        except grpc.aio.AioRpcError as error:
            raise NotReady(f"{error.code().name}: {error.details()}") from None


async def _connect(address: str) -> None:
    host, port = address.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
