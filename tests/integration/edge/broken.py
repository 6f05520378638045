"""A replica that says it is well and breaks every call off: only who counts failures finds it out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived

from tests.support.ports import free_address

_HEALTH = b"/grpc.health.v1.Health/Check"
_SERVING = b"\0\0\0\0\2\x08\1"


@dataclass
class Broken:
    """The replica."""

    address: str
    calls: int = 0
    """How many it broke off."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: health is answered, and another call ends the connection."""
        connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        try:
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if not self._answers(connection, event):
                        self.calls += 1
                        return
                writer.write(connection.data_to_send())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    def _answers(self, connection: H2Connection, event: Event) -> bool:
        if isinstance(event, DataReceived):
            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if not isinstance(event, RequestReceived):
            return True
        if dict(event.headers)[b":path"] != _HEALTH:
            return False
        connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        connection.send_data(event.stream_id, _SERVING)
        connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        return True


@asynccontextmanager
async def running_broken() -> AsyncIterator[Broken]:
    """One such replica."""
    broken = Broken(free_address())
    host, port = broken.address.rsplit(":", 1)
    server = await asyncio.start_server(broken.serve, host, int(port))
    try:
        yield broken
    finally:
        server.close()
