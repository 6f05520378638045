"""A small HTTP server for tests: scripted answers, hostile ones among them."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.ports import free_port
from tests.support.proxy import reset_connection


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


Handler = Callable[[Request, asyncio.StreamWriter], Coroutine[None, None, None]]


@dataclass
class HttpServer:
    """What it answers, and what it saw."""

    host: str
    port: int
    answers: dict[str, Handler] = field(default_factory=dict)
    """By path; another path is 404."""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    """How many were made."""
    open: int = 0
    """How many are open now."""

    def url(self, path: str = "") -> str:
        """Where a path of it is."""
        return f"http://{self.host}:{self.port}{path}"

    async def until_idle(self, seconds: float = 5.0) -> None:
        """Returns when no connection is open."""
        async with asyncio.timeout(seconds):
            while self.open:  # noqa: ASYNC110 - a test's patience
                await asyncio.sleep(0.005)

    async def until_asked(self, count: int = 1, seconds: float = 5.0) -> None:
        """Returns when there were so many requests."""
        async with asyncio.timeout(seconds):
            while len(self.requests) < count:  # noqa: ASYNC110 - a test's patience
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                handler = self.answers.get(request.target.partition("?")[0], answer(404, b"not found", "text/plain"))
                # A handler that waits must notice that its client left.
                left = asyncio.create_task(reader.read(1))
                work = asyncio.create_task(handler(request, writer))
                await asyncio.wait({left, work}, return_when=asyncio.FIRST_COMPLETED)
                for task in (left, work):
                    if not task.done():
                        task.cancel()
                results = await asyncio.gather(left, work, return_exceptions=True)
                if any(result is not None for result in results[1:]) or writer.is_closing():
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def running_http_server(host: str = "127.0.0.1") -> AsyncIterator[HttpServer]:
    """A server on a free port below the ephemeral ones."""
    server = HttpServer(host, free_port())
    listening = await asyncio.start_server(server._serve, host, server.port)
    try:
        yield server
    finally:
        listening.close()


def answer(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Handler:
    """A whole answer; `headers` have `_` for `-`."""

    async def handle(_request: Request, writer: asyncio.StreamWriter) -> None:
        fields = {"content-type": content_type, "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in fields.items() if value)]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return handle


def redirect(location: str, status: int = 302) -> Handler:
    """Leads elsewhere."""
    return answer(status, b"", "", location=location)


def bomb(unpacked: int) -> Handler:
    """So many zero bytes, packed to about a thousandth. The end of the packing is missing: nobody may get there."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    block = bytes(1024 * 1024)
    first, again = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    body = first + again * (unpacked // len(block) - 1)
    return answer(200, body, "text/plain", content_encoding="gzip")


async def endless(_request: Request, writer: asyncio.StreamWriter) -> None:
    """An answer without an end, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 Scripted\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        await writer.drain()


async def dripping(_request: Request, writer: asyncio.StreamWriter) -> None:
    """A byte each 20 ms, for ever."""
    writer.write(b"HTTP/1.1 200 Scripted\r\ncontent-type: text/plain\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silent(_request: Request, _writer: asyncio.StreamWriter) -> None:
    """No answer."""
    await asyncio.Event().wait()


async def broken_off(_request: Request, writer: asyncio.StreamWriter) -> None:
    """Half an answer, then a reset."""
    writer.write(b'HTTP/1.1 200 Scripted\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"half":')
    await writer.drain()
    reset_connection(writer)


async def garbage(_request: Request, writer: asyncio.StreamWriter) -> None:
    """No HTTP."""
    writer.write(b"\x00\xff SSH-2.0-nonsense\r\n\r\n")
    writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readline()
    if not head:
        return None
    method, target, _version = head.decode("latin-1").split(" ")
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)
