"""HTTP as no client library would send it: raw bytes on a socket, and bodies in DATA frames of one's own cut."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.events

_TIMEOUT_S = 10.0
_READ = 65_536


@dataclass
class Reply:
    """An answer."""

    status: int
    """0: the connection was closed without one."""

    body: bytes

    def error(self) -> dict[str, Any]:
        """The body, a `google.rpc.Status` as JSON."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


async def raw(address: str, request: bytes) -> Reply:
    """Sends these very bytes on a connection of their own; the first answer that comes back."""
    host, port = address.rsplit(":", 1)
    async with asyncio.timeout(_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            await writer.drain()
            return await _answer(reader)
        except ConnectionError:
            return Reply(0, b"")
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader) -> Reply:
    head = await reader.readline()
    if not head:
        return Reply(0, b"")
    length = 0
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "content-length":
            length = int(value)
    return Reply(int(head.split()[1]), await reader.readexactly(length))


async def in_frames(address: str, headers: Mapping[str, str], bodies: Sequence[Sequence[bytes]]) -> list[Reply]:
    """Sends POSTs one after the other on one HTTP/2 connection.

    Args:
        address: host:port, without TLS.
        headers: Of each; `:path` among them.
        bodies: Of each request, what its DATA frames hold. Each frame is a write of its own.
    """
    host, port = address.rsplit(":", 1)
    async with asyncio.timeout(_TIMEOUT_S * 6):
        reader, writer = await asyncio.open_connection(host, int(port))
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        connection.initiate_connection()
        try:
            return [await _exchange(reader, writer, connection, headers, frames) for frames in bodies]
        finally:
            writer.close()


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    connection: h2.connection.H2Connection,
    headers: Mapping[str, str],
    frames: Sequence[bytes],
) -> Reply:
    stream = connection.get_next_available_stream_id()
    connection.send_headers(
        stream, [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), *headers.items()]
    )
    for number, frame in enumerate(frames):
        connection.send_data(stream, frame, end_stream=number == len(frames) - 1)
        writer.write(connection.data_to_send())
        await writer.drain()
        await asyncio.sleep(0)
    reply = Reply(0, b"")
    while received := await reader.read(_READ):
        for event in connection.receive_data(received):
            if isinstance(event, h2.events.ResponseReceived):
                reply.status = int(dict(event.headers)[b":status"])
            elif isinstance(event, h2.events.DataReceived):
                reply.body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                writer.write(connection.data_to_send())
                return reply
        writer.write(connection.data_to_send())
    return reply
