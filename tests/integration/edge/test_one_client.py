"""One client cannot take all: its streams, its time and Envoy's own memory have limits, and the rest is served on."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from hpack import Encoder
from hyperframe.frame import HeadersFrame, SettingsFrame

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from tests.integration.edge.envoys import Backend, Edge, manager, running_edge

STREAMS = 100
"""What a connection may have at once."""
CUT_S = 0.3
SOON_S = 5.0
PATIENCE_S = 1.0
"""Longer than what is cut: as shipped, nothing ends in it."""

HEAD = (
    b"POST /v1/sessions/s:run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 15\r\n"
)
SLOW = {
    "half a head": (HEAD, "downstream_rq_header_timeout"),
    "half a body": (HEAD + b'\r\n{"input"', "downstream_rq_timeout"),
    "a silent stream": (HEAD + b'\r\n{"input": "hi"}', "downstream_rq_idle_timeout"),
    "nothing": (b"", "downstream_cx_idle_timeout"),
}
"""What a client sends that then waits, and what Envoy counts when it waits no longer."""


def cut_the_times(document: Any) -> None:
    """As shipped, they are 10, 60, 900 and 300 seconds."""
    settings = manager(document)
    settings["request_headers_timeout"] = f"{CUT_S}s"
    settings["request_timeout"] = f"{2 * CUT_S}s"
    settings["common_http_protocol_options"]["idle_timeout"] = f"{CUT_S}s"
    (host,) = settings["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        if "idle_timeout" in route["route"]:
            route["route"]["idle_timeout"] = f"{CUT_S}s"


@pytest_asyncio.fixture(scope="module")
async def hurried(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Envoy with its times cut."""
    async with running_edge(tmp_path_factory.mktemp("hurried"), backend, {}, change=cut_the_times) as running:
        yield running


async def ends(address: str, sent: bytes, within_s: float) -> bool:
    """Whether Envoy ends a connection on which this was sent, and no more, in time."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        async with asyncio.timeout(within_s):
            while await reader.read(65_536):
                pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return True


async def counted(edge: Edge, name: str) -> int:
    """A counter of Envoy."""
    text = (await edge.http.get(f"http://{edge.admin}/stats?filter={name}$")).text
    return sum(int(line.rpartition(" ")[2]) for line in text.splitlines())


@pytest.mark.parametrize("kind", SLOW)
async def test_who_is_slow_is_left(hurried: Edge, kind: str) -> None:
    sent, counter = SLOW[kind]
    before = await counted(hurried, f"http.edge.{counter}")
    assert await ends(hurried.address, sent, SOON_S)
    assert await counted(hurried, f"http.edge.{counter}") > before


async def test_as_shipped_who_is_slow_has_longer(edge: Edge) -> None:
    waits = [ends(edge.address, sent, PATIENCE_S) for sent, _ in SLOW.values()]
    assert await asyncio.gather(*waits) == [False] * len(SLOW)


@asynccontextmanager
async def one_connection(edge: Edge) -> AsyncIterator[Any]:
    """A client with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(edge.address, options=options) as channel:
        yield orchestrator_pb2_grpc.OrchestratorServiceStub(channel)


def take_the_limit_of_streams_away(document: Any) -> None:
    """Envoy's own default would be 1,024."""
    manager(document)["http2_protocol_options"]["max_concurrent_streams"] = 1_000


@pytest_asyncio.fixture(scope="module")
async def unlimited(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Envoy without the limit of streams."""
    change = take_the_limit_of_streams_away
    async with running_edge(tmp_path_factory.mktemp("unlimited"), backend, {}, change=change) as running:
        yield running


async def comes_at_once(edge: Edge, within_s: float) -> bool:
    """Whether one stream more than may be is served in time, beside the others. Else it is once another has ended."""
    edge.stub.forget()
    turn = run_pb2.RunTurnRequest(session_id="s", input="hi")
    async with one_connection(edge) as stub:
        calls = [stub.RunTurn(turn, timeout=30) for _ in range(STREAMS)]
        await asyncio.gather(*(call.read() for call in calls))
        last = stub.RunTurn(turn, timeout=30)
        first_event = asyncio.create_task(last.read())
        at_once, _ = await asyncio.wait({first_event}, timeout=within_s)
        assert len(edge.stub.seen) == STREAMS + len(at_once)
        calls[0].cancel()
        assert (await first_event).sequence == 1
        for call in (*calls, last):
            call.cancel()
    return bool(at_once)


async def test_a_stream_over_a_connections_limit_waits_until_another_ends(edge: Edge) -> None:
    assert not await comes_at_once(edge, CUT_S)


async def test_without_the_limit_it_does_not_wait(unlimited: Edge) -> None:
    assert await comes_at_once(unlimited, SOON_S)


async def ended_by(edge: Edge, count: int) -> bool:
    """Whether a client that minds no limit loses its connection by so many streams. If not, all are served."""
    edge.stub.forget()
    host, port = edge.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    reading = asyncio.create_task(reader.read())
    try:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
        await asyncio.sleep(CUT_S)  # Envoy's own settings have come
        writer.write(SettingsFrame(0, flags=["ACK"]).serialize())  # from here on, its limit holds
        writer.write(b"".join(_request(2 * number + 1) for number in range(count)))
        async with asyncio.timeout(SOON_S):
            while not reading.done() and len(edge.stub.seen) < count:  # noqa: ASYNC110 - in Envoy
                await asyncio.sleep(0.01)
        return reading.done()
    finally:
        reading.cancel()
        writer.close()


def _request(stream: int) -> bytes:
    pseudo = {":method": "DELETE", ":scheme": "http", ":path": "/v1/sessions/s", ":authority": "localhost"}
    flags = ["END_HEADERS", "END_STREAM"]
    return HeadersFrame(stream, Encoder().encode(list(pseudo.items())), flags=flags).serialize()


async def test_a_client_that_minds_no_limit_loses_its_connection(edge: Edge, unlimited: Edge) -> None:
    assert await ended_by(edge, STREAMS + 20)
    assert len(edge.stub.seen) <= STREAMS
    assert not await ended_by(unlimited, STREAMS + 20)
    assert not await ended_by(edge, STREAMS)


def take_memory_away(document: Any) -> None:
    """So little that all of it is in use from the beginning."""
    heap, _ = document["overload_manager"]["resource_monitors"]
    heap["typed_config"]["max_heap_size_bytes"] = 1_048_576


def take_memory_but_accept(document: Any) -> None:
    """The same, and connections are taken: what is refused is the request."""
    take_memory_away(document)
    points = document["overload_manager"]["loadshed_points"]
    document["overload_manager"]["loadshed_points"] = [each for each in points if "tcp_listener" not in each["name"]]


async def is_ready(edge: Edge) -> bool:
    """Whether Envoy's own interface says so."""
    try:
        return (await edge.http.get(f"http://{edge.admin}/ready")).text == "LIVE\n"
    except httpx.TransportError:
        return False


async def test_an_envoy_short_of_memory_refuses_requests_and_lives(backend: Backend, tmp_path: Path) -> None:
    async with running_edge(tmp_path, backend, {}, change=take_memory_but_accept, status=503) as edge:
        began = time.monotonic()
        reply = await edge.http.get("/v1/runs/s.1")
        assert (reply.status_code, reply.json()["details"][0]["reason"]) == (503, "SERVICE_UNAVAILABLE")
        assert time.monotonic() - began < SOON_S
        assert edge.stub.seen == []
        assert await is_ready(edge)


async def test_an_envoy_short_of_memory_takes_no_connection(backend: Backend, tmp_path: Path) -> None:
    async with running_edge(tmp_path, backend, {}, change=take_memory_away, status=0) as edge:
        async with asyncio.timeout(10):
            while not await is_ready(edge) or not await counted(edge, "tcp_listener_accept.scale_percent"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await ends(edge.address, HEAD, SOON_S)
        assert await counted(edge, "tcp_listener_accept.shed_load_count") > 0
        assert await is_ready(edge)


def take_connections_away(document: Any) -> None:
    """As shipped, there are 12,000."""
    _, connections = document["overload_manager"]["resource_monitors"]
    connections["typed_config"]["max_active_downstream_connections"] = 3


async def held(edge: Edge, count: int) -> int:
    """How many connections of so many stay open."""
    ended = await asyncio.gather(*(ends(edge.address, HEAD, PATIENCE_S) for _ in range(count)))
    return ended.count(False)


async def test_connections_beyond_the_most_are_ended(edge: Edge, backend: Backend, tmp_path: Path) -> None:
    async with running_edge(tmp_path, backend, {}, change=take_connections_away) as small:
        assert 1 <= await held(small, 10) <= 3
    assert await held(edge, 10) == 10
