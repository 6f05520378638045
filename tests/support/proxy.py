"""A TCP proxy that counts, and that loses replies when told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes between clients and one server."""

    def __init__(self, port: int) -> None:
        self.replies_to_lose = 0
        """What the server says is dropped this many times, each time with the connection."""
        self.round_trips = 0
        """How often a client spoke after the server had."""
        self.connections = 0
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                await self._pass(reader, writer, server_reader, server_writer)
            finally:
                server_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the test is over
        finally:
            writer.close()
            self._tasks.discard(task)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
            while data := await reader.read(65536):
                self.round_trips += server_spoke
                server_spoke = False
                server_writer.write(data)
                await server_writer.drain()

        async def replies() -> None:
            nonlocal server_spoke
            while data := await server_reader.read(65536):
                server_spoke = True
                if self.replies_to_lose:
                    self.replies_to_lose -= 1
                    return
                writer.write(data)
                await writer.drain()

        both = [asyncio.create_task(asks()), asyncio.create_task(replies())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)


@asynccontextmanager
async def running_proxy(url: str, *, port: int = 0) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy to the server at `url`, and the URL to reach it by.

    Args:
        url: The server.
        port: Where the proxy listens; 0: anywhere.
    """
    proxy = Proxy(urlsplit(url).port or 0)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", port)
    try:
        yield proxy, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
