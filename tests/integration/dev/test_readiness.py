"""Probes: what counts as ready, and what is said when it is not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.dev import readiness
from services.dev.readiness import NotReady, Probe

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server_that_says(reply: bytes) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@asynccontextmanager
async def health_server(**states: int) -> AsyncIterator[str]:
    server = grpc.aio.server()
    servicer = grpc_health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    for name, state in states.items():
        await servicer.set(name, state)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def seen(probe: Probe) -> str:
    """What a probe finds wrong. Empty: nothing."""
    try:
        await readiness.check(probe)
    except NotReady as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answers HTTP/1.1 503 Service Unavailable"),
        (b"", "answers nothing"),
        (b"SSH-2.0-x\r\n", "answers SSH-2.0-x"),
    ],
)
async def test_http_is_ready_when_it_answers_200(reply: bytes, wrong: str) -> None:
    async with server_that_says(reply) as address:
        assert await seen(readiness.http(address, "/healthz")) == wrong


@pytest.mark.parametrize(
    ("healthy", "wrong"),
    [
        ((2, 1), ""),
        ((1, 1), "does not reach every replica of memory"),
        ((0, 0), "does not reach every replica of memory, nlu"),
    ],
)
async def test_an_edge_is_ready_when_it_uses_every_replica(healthy: tuple[int, int], wrong: str) -> None:
    counts = {"memory": (healthy[0], 2), "nlu": (healthy[1], 1), "collector": (0, 0)}
    lines = [
        f"cluster.{name}.membership_{kind}: {count}"
        for name, (well, all_of_it) in counts.items()
        for kind, count in (("change", 9), ("degraded", 0), ("healthy", well), ("total", all_of_it))
    ]
    reply = "\r\n".join(("HTTP/1.1 200 OK", "transfer-encoding: chunked", "", "12c", "\n".join(lines), "0", "", ""))
    async with server_that_says(reply.encode()) as address:
        assert await seen(readiness.replicas(address)) == wrong


async def test_an_edge_that_knows_of_no_replica_is_not_ready() -> None:
    async with server_that_says(b"HTTP/1.1 200 OK\r\n\r\ncluster.collector.membership_total: 0\n") as address:
        assert await seen(readiness.replicas(address)) == "knows of no replica"


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        (b"+PONG\r\n", ""),
        (b"-LOADING Valkey is loading the dataset in memory\r\n", "-LOADING Valkey is loading the dataset in memory"),
        (b"", "closed the connection"),
    ],
)
async def test_valkey_is_ready_when_it_has_read_its_data(reply: bytes, wrong: str) -> None:
    async with server_that_says(reply) as address:
        assert await seen(readiness.valkey(address)) == wrong


async def test_nothing_that_listens_is_not_ready() -> None:
    async with server_that_says(b"") as address:
        pass
    for probe in (readiness.valkey(address), readiness.health(address), readiness.http(address, "/")):
        assert await seen(probe) == "nothing listens"


async def test_server_that_is_mute_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "ATTEMPT_S", 0.1)
    hold = asyncio.Event()

    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        assert await seen(readiness.valkey(f"{host}:{port}")) == "no answer"
        hold.set()


async def test_service_is_ready_when_it_serves() -> None:
    async with health_server(one=SERVING, two=NOT_SERVING) as address:
        assert await seen(readiness.health(address, "one")) == ""
        assert await seen(readiness.health(address, "one", "two")) == "waits for what it needs"
        assert "NOT_FOUND" in await seen(readiness.health(address, "three"))


async def test_probe_that_passes_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "EVERY_S", 0.01)
    tries = 0

    async def third_time() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise NotReady("not yet")

    await readiness.until_ready(third_time, 5.0)
    assert tries == 3


async def test_waiting_ends_and_says_what_was_seen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "EVERY_S", 0.01)

    async def never() -> None:
        raise NotReady("still loading")

    with pytest.raises(NotReady, match="not ready after 0 s: still loading"):
        await readiness.until_ready(never, 0.05)
