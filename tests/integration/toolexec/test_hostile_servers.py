"""Tools whose servers are out to harm: each call ends by its tool's deadline, takes no memory, and leaves no socket."""

import asyncio
import os
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from services.dev.certificates import make_certificates
from services.kit.call import Principal
from services.kit.errors import ServiceError, ToolResponseTooLarge, ToolTimeout, ToolUnavailable
from services.toolexec.adapters import http as adapter
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.guard import SystemResolver
from services.toolexec.adapters.http import HttpcoreCaller
from services.toolexec.adapters.inmemory import InMemoryResultStore, InMemoryToolSource
from services.toolexec.core.execution import Execution, Executor, Runners
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.domain import AgentTools, HttpCall, Outcome, SideEffect, Tool
from tests.support.http_server import (
    HttpServer,
    answer,
    bomb,
    broken_off,
    dripping,
    endless,
    garbage,
    running_http_server,
    silent,
)
from tests.support.ports import free_port
from tests.support.proxy import reset_connection

ANN = Principal("acme", "ann")
DEADLINE_S = 0.3
LATE_S = 0.1
CUT_S = 2.0
"""Who sends without end, or breaks off, is left in less, whatever else the machine does."""
MOST_BYTES = 1_048_576
LITTLE = 65_536
READ_AT_MOST = 393_216
"""Bytes: of an answer of `LITTLE`, what may stand beside it, and what waits in the buffers between."""
MOST_MEMORY = 10 * 1_048_576
TRIES = 3
HEAD = b"HTTP/1.1 200 Scripted\r\ncontent-type: text/plain\r\n"
BLOCK = b"x" * 65_536
TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Believes nobody."""


async def without_end(writer: asyncio.StreamWriter, piece: bytes, pause: float = 0.0) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)


async def dripped_head(_request, writer):
    writer.write(HEAD + b"x-drip: ")
    await without_end(writer, b"x", 0.02)


async def endless_head(_request, writer):
    writer.write(HEAD)
    await without_end(writer, b"x-more: more\r\n" * 1_000)


async def endless_line(_request, writer):
    writer.write(HEAD + b"x-long: ")
    await without_end(writer, BLOCK)


async def endless_continue(_request, writer):
    await without_end(writer, b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


async def padded_continue(_request, writer):
    await without_end(writer, b"HTTP/1.1 100 Continue\r\nx-wait: " + b"x" * 1_024 + b"\r\n\r\n")


async def endless_trailers(_request, writer):
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n")
    await without_end(writer, b"x-more: more\r\n" * 1_000)


async def endless_extension(_request, writer):
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n1;")
    await without_end(writer, BLOCK)


async def one_byte_chunks(_request, writer):
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    await without_end(writer, b"1\r\nx\r\n" * 10_000)


async def padded_chunks(_request, writer):
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    await without_end(writer, b"1;" + b"x" * 16_384 + b"\r\nx\r\n")


async def a_gibibyte(_request, writer):
    writer.write(HEAD + b"content-length: 1073741824\r\n\r\n")
    await without_end(writer, BLOCK)


async def packed_nothing(_request, writer):
    """gzip that never unpacks to anything: empty blocks without end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    writer.write(HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(in_chunk(packer.compress(b"") + packer.flush(zlib.Z_SYNC_FLUSH)))
    await without_end(writer, in_chunk(b"\x00\x00\x00\xff\xff" * 10_000))


async def packed_with_tail(_request, writer):
    """gzip that has ended, and bytes without end behind it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    writer.write(HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(in_chunk(packer.compress(b"{}") + packer.flush()))
    await without_end(writer, in_chunk(BLOCK))


def in_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def reset(_request, writer):
    reset_connection(writer)


async def closed(_request, writer):
    writer.close()


async def shorter_than_said(_request, writer):
    writer.write(HEAD + b"content-length: 1000\r\n\r\nshort")
    await writer.drain()
    writer.close()


async def two_lengths(_request, writer):
    writer.write(HEAD + b"content-length: 1\r\ncontent-length: 5\r\n\r\nhello")


async def no_such_chunk(_request, writer):
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nx")


async def no_such_status(_request, writer):
    writer.write(b"HTTP/1.1 999999 Nonsense\r\n\r\n")


async def another_protocol(_request, writer):
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    await asyncio.Event().wait()


@dataclass
class World:
    """A server, and an executor whose tools call it."""

    server: HttpServer
    executor: Executor
    source: InMemoryToolSource
    http: HttpTools
    """What the executor calls with, without its deadline."""

    async def run(
        self, handler, timeout: float = DEADLINE_S, endpoint: str = "crm", max_bytes: int = MOST_BYTES
    ) -> tuple[Outcome | Exception, float]:
        """Calls a tool that this handler answers for: what came of it, and how long it took."""
        name = handler.__name__
        self.server.answers["/a"] = handler
        call = HttpCall("GET", endpoint, "/a", {}, max_bytes, idempotency_key=False)
        tool = Tool(name, "d", {"type": "object"}, SideEffect.READ, timeout, frozenset(), call)
        self.source.put(ANN.tenant, AgentTools("aura", 1, {name: tool}))
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            done = await self.executor.execute(ANN, Execution("aura", 1, name, "{}", "s.1", "k", None))
            return done.outcome, loop.time() - began
        except ServiceError as error:
            return error, loop.time() - began


@asynccontextmanager
async def opened(trust: ssl.SSLContext = TRUST) -> AsyncIterator[World]:
    async with running_http_server() as server:
        resolver, source, clock = SystemResolver(), InMemoryToolSource(), SystemClock()
        caller = HttpcoreCaller(resolver, connections=16, trust=trust)
        endpoints = {"crm": server.url(), "tls": server.url().replace("http", "https")}
        http = HttpTools(caller, endpoints, frozenset())
        executor = Executor(source, Runners({}, http), InMemoryResultStore(clock), Schemas(), Gate(32, 64), clock)
        yield World(server, executor, source, http)
        await caller.close()
        resolver.close()
        await server.until_idle()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened() as made:
        yield made


def sockets(server: HttpServer) -> int:
    """Sockets of this process at the server's port, on either side. Others come and go with whatever else runs here."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    at_server = {f"socket:[{row[9]}]" for row in rows if f"{server.port:04X}" in {row[1][-4:], row[2][-4:]}}
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += os.readlink(fd) in at_server
    return found


def memory(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


HANGS = [silent, dripping, dripped_head, another_protocol]


@pytest.mark.parametrize("handler", HANGS, ids=lambda handler: handler.__name__)
async def test_a_server_that_hangs_is_cut_at_the_tools_deadline(world, handler):
    before = sockets(world.server)
    tries = [await world.run(handler) for _ in range(2)]
    assert {type(error) for error, _ in tries} <= {ToolTimeout, ToolUnavailable}
    assert min(took for _, took in tries) <= DEADLINE_S + LATE_S
    await world.server.until_idle()
    assert sockets(world.server) == before


async def held_to_memory(work):
    """What came of each try: one of a few must take no more memory, as others of this process take some, too."""
    peaks, found = [], []
    while not peaks or (len(peaks) < TRIES and peaks[-1] > MOST_MEMORY):
        forget_peak()
        resident = memory("VmRSS")
        found.append(await work())
        peaks.append(memory("VmHWM") - resident)
    assert peaks[-1] <= MOST_MEMORY, peaks
    return found


FLOODS = [
    endless,
    endless_head,
    endless_line,
    endless_continue,
    endless_trailers,
    endless_extension,
    one_byte_chunks,
    padded_chunks,
    a_gibibyte,
    packed_nothing,
    packed_with_tail,
]


@pytest.mark.parametrize("handler", FLOODS, ids=lambda handler: handler.__name__)
async def test_a_server_that_floods_is_cut_at_its_limit_and_takes_no_memory(world, handler):
    await world.run(answer_ok)
    before = sockets(world.server)
    for error, took in await held_to_memory(lambda: world.run(handler, timeout=1.0)):
        assert isinstance(error, ToolResponseTooLarge | ToolUnavailable | ToolTimeout), error
        assert took < 1.0 + CUT_S
    await world.server.until_idle()
    assert sockets(world.server) <= before


async def answer_ok(request, writer):
    await answer(200, b"{}")(request, writer)


@pytest.mark.parametrize("handler", [endless, a_gibibyte, packed_nothing, packed_with_tail, endless_continue])
async def test_what_passes_the_limit_ends_the_call_at_once(world, handler):
    error, took = await world.run(handler, timeout=5.0)
    assert isinstance(error, ToolResponseTooLarge)
    assert took < 2.0


class Counted:
    """A handler, and how many bytes it got rid of."""

    def __init__(self, handler) -> None:
        self._handler = handler
        self.__name__ = handler.__name__
        self.sent = 0

    async def __call__(self, request, writer) -> None:
        writer.transport.set_write_buffer_limits(0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        writer.write = partial(self._write, writer.write)
        await self._handler(request, writer)

    def _write(self, write, data: bytes) -> None:
        write(data)
        self.sent += len(data)


BESIDES = [padded_continue, padded_chunks]


@pytest.mark.parametrize("handler", BESIDES, ids=lambda handler: handler.__name__)
async def test_what_is_sent_beside_a_body_is_read_as_far_as_its_allowance(world, handler):
    counted = Counted(handler)
    error, took = await world.run(counted, timeout=5.0, max_bytes=LITTLE)
    assert isinstance(error, ToolResponseTooLarge)
    assert counted.sent <= READ_AT_MOST
    assert took < 2.0


@pytest.mark.parametrize("handler", BESIDES, ids=lambda handler: handler.__name__)
async def test_control_without_the_allowance_it_is_read_until_the_tools_deadline(world, handler, monkeypatch):
    monkeypatch.setattr(adapter, "_BESIDE_BODY", 2**40)
    counted = Counted(handler)
    error, _ = await world.run(counted, timeout=1.0, max_bytes=LITTLE)
    assert isinstance(error, ToolTimeout)
    assert counted.sent > 2 * READ_AT_MOST


async def test_a_bomb_of_a_gibibyte_is_never_unpacked(world):
    async def bombing(request, writer):
        await packed(request, writer)

    packed = await asyncio.to_thread(bomb, 1_073_741_824)
    await world.run(answer_ok)
    for error, _ in await held_to_memory(lambda: world.run(bombing, timeout=5.0)):
        assert isinstance(error, ToolResponseTooLarge)


BREAKS = [broken_off, garbage, reset, closed, shorter_than_said, two_lengths, no_such_chunk, no_such_status]


@pytest.mark.parametrize("handler", BREAKS, ids=lambda handler: handler.__name__)
async def test_an_answer_that_is_no_answer_is_unavailable_and_says_nothing_of_the_server(world, handler):
    error, took = await world.run(handler, timeout=5.0)
    assert isinstance(error, ToolUnavailable), error
    assert took < CUT_S
    assert not any(word in error.message.lower() for word in ("127.0.0.1", "error", "h11", "httpcore"))


@pytest.mark.parametrize("handler", [silent, dripping], ids=lambda handler: handler.__name__)
async def test_control_without_the_tools_deadline_a_server_that_hangs_holds_its_caller(world, handler):
    world.server.answers["/a"] = handler
    call = HttpCall("GET", "crm", "/a", {}, MOST_BYTES, idempotency_key=False)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.http.run("a", call, {}, "k"), DEADLINE_S + LATE_S)


async def test_control_without_the_limit_a_bomb_takes_the_memory(world):
    size = 3 * MOST_MEMORY
    world.server.answers["/a"] = await asyncio.to_thread(bomb, size)
    call = HttpCall("GET", "crm", "/a", {}, 2 * size, idempotency_key=False)
    forget_peak()
    resident = memory("VmRSS")
    with pytest.raises(ToolUnavailable):  # its packing has no end
        await world.http.run("a", call, {}, "k")
    assert memory("VmHWM") - resident > MOST_MEMORY


async def test_fifty_hostile_calls_at_once_leave_no_socket(world):
    await world.run(answer_ok)
    before = sockets(world.server)
    for handler in (silent, endless, dripped_head, packed_with_tail, reset):
        await asyncio.gather(*(world.run(handler, timeout=0.2) for _ in range(10)))
    await world.server.until_idle()
    assert sockets(world.server) <= before
    outcome, _ = await world.run(answer_ok, timeout=2.0)
    assert isinstance(outcome, Outcome)


async def test_a_handshake_that_never_ends_is_cut_at_the_tools_deadline():
    async with opened() as world:
        before = sockets(world.server)
        tries = [await world.run(silent, endpoint="tls") for _ in range(2)]
        assert {type(error) for error, _ in tries} <= {ToolTimeout, ToolUnavailable}
        assert min(took for _, took in tries) <= DEADLINE_S + LATE_S
        await world.server.until_idle()
        assert sockets(world.server) == before


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, {"tool": ("tool.example",)})
    return folder


@pytest.mark.parametrize(
    ("host", "authority", "served"),
    [("127.0.0.1", "ca.pem", True), ("127.0.0.1", "", False), ("127.0.0.2", "ca.pem", False)],
    ids=["good", "of no authority we know", "of another name"],
)
async def test_a_server_is_spoken_to_only_with_a_good_certificate(certificates, host, authority, served):
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificates / "tool.pem", certificates / "tool.key")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority:
        ours.load_verify_locations(certificates / authority)
    asked = []

    async def serve(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    port = free_port()
    listening = await asyncio.start_server(serve, host, port, ssl=theirs)
    resolver = SystemResolver()
    caller = HttpcoreCaller(resolver, trust=ours)
    tools = HttpTools(caller, {"tls": f"https://{host}:{port}"}, frozenset())
    call = HttpCall("GET", "tls", "/", {}, MOST_BYTES, idempotency_key=False)
    try:
        if served:
            assert (await tools.run("get", call, {}, "k")).result_json == "{}"
        else:
            with pytest.raises(ToolUnavailable):
                await tools.run("get", call, {}, "k")
        assert len(asked) == served
    finally:
        await caller.close()
        resolver.close()
        listening.close()
