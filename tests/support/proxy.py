"""A TCP proxy that counts, loses replies when told to, and does to bytes what a bad network does."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_READ = 65_536


class Way:
    """What happens to the bytes of one direction, of connections to come and of those that are open."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        """Each piece is passed on this late."""
        self.slice_bytes = 0
        """Pieces of at most so many bytes, each in a packet of its own. 0: as they come."""
        self.cut_after: int | None = None
        """A connection is reset once so many bytes have passed."""
        self.half_close_after: int | None = None
        """After so many bytes the receiver sees the end of this direction; the other goes on."""
        self.marks: dict[bytes, int] = {}
        """How often each of these words came from the sender, passed on or not."""
        self._open = asyncio.Event()
        self._open.set()

    def stall(self) -> None:
        """Nothing passes any more; nobody is told."""
        self._open.clear()

    def resume(self) -> None:
        """What was held passes."""
        self._open.set()

    def count(self, mark: bytes) -> None:
        """Counts a word from now on."""
        self.marks[mark] = 0

    async def pass_on(self, data: bytes, writer: asyncio.StreamWriter, passed: int) -> bool:
        """Passes a piece on. False: this direction ends here.

        Raises:
            ConnectionResetError: the connection is to be reset.
        """
        for mark in self.marks:
            self.marks[mark] += data.count(mark)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        await self._open.wait()
        limit = self.half_close_after if self.cut_after is None else self.cut_after
        room = len(data) if limit is None else max(0, limit - passed)
        size = self.slice_bytes or len(data)
        for start in range(0, min(len(data), room), size):
            writer.write(data[start : min(start + size, room)])
            await writer.drain()
            if self.slice_bytes:
                await asyncio.sleep(0)
        if room >= len(data):
            return True
        if self.cut_after is not None:
            raise ConnectionResetError
        return False


class Proxy:
    """Passes bytes between clients and one server."""

    def __init__(self, port: int) -> None:
        self.port = port
        """Of the server. 0: there is none; connections are accepted and never answered."""
        self.replies_to_lose = 0
        """What the server says is dropped this many times, each time with the connection."""
        self.round_trips = 0
        """How often a client spoke after the server had."""
        self.connections = 0
        self.open = 0
        """Connections that are open now."""
        self.refusing = False
        """Whether connections to come are reset at once."""
        self.asking, self.answering = Way(), Way()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()

    def stall(self) -> None:
        """A black hole: connections are accepted, and nothing passes either way."""
        self.asking.stall()
        self.answering.stall()

    def resume(self) -> None:
        """Both ways are open again, what was held passes, and no other harm is done."""
        self.refusing = False
        for way in (self.asking, self.answering):
            way.latency_s, way.slice_bytes, way.cut_after, way.half_close_after = 0.0, 0, None, None
            way.resume()

    def reset(self) -> None:
        """Resets every open connection."""
        for writer in self._clients:
            reset_connection(writer)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            reset_connection(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        self.open += 1
        try:
            if self.port:
                await self._to_server(reader, writer)
            else:
                while await reader.read(_READ):
                    pass
        except ConnectionResetError:
            reset_connection(writer)
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the test is over
        finally:
            self.open -= 1
            writer.close()
            self._clients.discard(writer)
            self._tasks.discard(task)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _to_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self._pass(reader, writer, server_reader, server_writer)
        except ConnectionResetError:
            reset_connection(server_writer)
            raise
        finally:
            server_writer.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        server_spoke = True

        async def asks() -> None:
            nonlocal server_spoke
            passed = 0
            while data := await reader.read(_READ):
                self.round_trips += server_spoke
                server_spoke = False
                if not await self.asking.pass_on(data, server_writer, passed):
                    await _half_closed(server_writer)
                passed += len(data)

        async def replies() -> None:
            nonlocal server_spoke
            passed = 0
            while data := await server_reader.read(_READ):
                server_spoke = True
                if self.replies_to_lose:
                    self.replies_to_lose -= 1
                    return
                if not await self.answering.pass_on(data, writer, passed):
                    await _half_closed(writer)
                passed += len(data)

        both = [asyncio.create_task(asks()), asyncio.create_task(replies())]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)


@asynccontextmanager
async def running_proxy(url: str, *, port: int = 0) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy to the server at `url`, and the URL to reach it by.

    Args:
        url: The server. Without a port: a silent one, which accepts and never answers.
        port: Where the proxy listens; 0: anywhere.
    """
    parts = urlsplit(url)
    proxy = Proxy(parts.port or 0)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", port, backlog=512)
    try:
        yield proxy, f"{parts.scheme.partition('+')[0] or 'tcp'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()


async def _half_closed(writer: asyncio.StreamWriter) -> None:
    """Ends one direction, and keeps it ended for as long as the connection lives."""
    with suppress(OSError):
        writer.write_eof()
    await asyncio.Event().wait()


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by a reset instead of in good order."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
