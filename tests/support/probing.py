"""Asks a process over HTTP how it is, as Kubernetes does: over a new connection each time."""

import asyncio


async def probed(address: str, path: str, timeout: float = 5.0) -> int:
    """The status that `host:port` answers with."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"GET /{path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            line = await reader.readline()
        finally:
            writer.close()
    return int(line.split()[1])
