"""Floods of HTTP/2: frames that are cheap to send and cost the receiver.

`python -m tests.integration.edge.floods HOST:PORT` sends them until it is ended, or one is not.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hpack import Encoder
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

CANCEL = 8
ENOUGH = 20_000
"""Frames, or pairs of them, that no connection should get through."""

_BURST = 2_000
_PAUSE_S = 0.05
"""Between floods of one kind."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CLOSED_S = 10


@dataclass(frozen=True)
class Flood:
    """One kind."""

    frames: Callable[[int], bytes]
    """What is sent at each number, from 0."""

    count: int = ENOUGH


@dataclass(frozen=True)
class End:
    """How it went."""

    sent: int
    closed: bool
    """Whether the other side ended the connection."""


async def flood(address: str, kind: Flood, closed_s: float = _CLOSED_S) -> End:
    """Sends the flood on a connection of its own, and reads as a client does that wants its answers.

    Args:
        address: host:port.
        kind: What is sent.
        closed_s: How long the end of the connection is waited for. Envoy leaves a client a second to read why.
    """
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    reading = asyncio.create_task(_to_the_end(reader))
    sent = 0
    try:
        writer.write(_PREFACE + SettingsFrame(0).serialize())
        with contextlib.suppress(ConnectionError):
            while sent < kind.count and not reading.done():
                upto = min(kind.count, sent + _BURST)
                writer.write(b"".join(map(kind.frames, range(sent, upto))))
                sent = upto
                await writer.drain()
        ended, _ = await asyncio.wait({reading}, timeout=closed_s)
        return End(sent, bool(ended))
    finally:
        reading.cancel()
        writer.close()


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


def _request(method: str, path: str, **headers: str) -> bytes:
    pseudo = {":method": method, ":scheme": "http", ":path": path, ":authority": "localhost"}
    return Encoder().encode(list({**pseudo, **headers}.items()))


def _with(frame: Frame, *flags: str) -> bytes:
    for flag in flags:
        frame.flags.add(flag)
    return frame.serialize()


def _reset(number: int) -> bytes:
    stream = 2 * number + 1
    headers = HeadersFrame(stream, _request("GET", "/v1/runs/s.1"))
    return _with(headers, "END_HEADERS", "END_STREAM") + RstStreamFrame(stream, error_code=CANCEL).serialize()


def _continued(number: int) -> bytes:
    if number == 0:
        return _with(HeadersFrame(1, b""), "END_STREAM")
    return ContinuationFrame(1, b"").serialize()


def _empty_data(number: int) -> bytes:
    if number == 0:
        head = _request("POST", "/v1/sessions", **{"content-type": "application/json"})
        return _with(HeadersFrame(1, head), "END_HEADERS")
    return DataFrame(1, b"").serialize()


FLOODS = {
    # Fewer than 1,000: there the HTTP/2 library has a limit of its own.
    "rapid reset": Flood(_reset, 800),
    "continuation": Flood(_continued),
    "ping": Flood(lambda _: PingFrame(0, b"flooding").serialize()),
    "settings": Flood(lambda _: SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 16_384}).serialize()),
    "empty data": Flood(_empty_data),
}


async def _again_and_again(address: str, name: str) -> None:
    while True:
        if not (await flood(address, FLOODS[name])).closed:
            raise RuntimeError(f"the flood was taken: {name}")
        await asyncio.sleep(_PAUSE_S)


async def _all(address: str) -> None:
    async with asyncio.TaskGroup() as group:
        for name in FLOODS:
            group.create_task(_again_and_again(address, name))


if __name__ == "__main__":
    asyncio.run(_all(sys.argv[1]))
