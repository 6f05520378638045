"""Calls at a pace, made of bare frames: a hundredth of what a gRPC client costs, so that what is slow is the server.

`python -m tests.support.paced HOST:PORT PATH METADATA MESSAGE RPS COUNT` makes them, and prints what came of them.
"""

import asyncio
import json
import struct
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hpack import Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame, WindowUpdateFrame

CONNECTIONS = 4
"""Each takes a thousand calls at once."""

PATIENCE_S = 10.0
"""Deadline of each call. What is not answered by then is not counted."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = 9
_DATA, _HEADERS, _RESET, _SETTINGS, _PING = 0, 1, 3, 4, 6
_ACK = _END_STREAM = 1
_TICK_S = 0.002
_WIDE = 2**30


@dataclass
class Paced:
    """What came of it. All times in seconds."""

    served: list[float] = field(default_factory=list)
    """What each took that was answered with a message."""

    refused: list[float] = field(default_factory=list)
    """What each took that ended without one."""

    sent: int = 0
    reset: int = 0
    """Calls that the server broke off."""

    late: float = 0.0
    """How much later than it should the latest call was begun: the generator's own delay."""

    @property
    def unanswered(self) -> int:
        """Calls without an answer."""
        return self.sent - self.reset - len(self.served) - len(self.refused)


class _Connection(asyncio.Protocol):
    """One connection: an answer with a message is service, one without is a refusal."""

    def __init__(self, seen: Paced, request: tuple[bytes, bytes]) -> None:
        self._seen = seen
        self._headers, self._body = request
        self._began: dict[int, float] = {}
        self._with_message: set[int] = set()
        self._next = 1
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = {SettingsFrame.INITIAL_WINDOW_SIZE: _WIDE, SettingsFrame.HEADER_TABLE_SIZE: 0}
        first = [SettingsFrame(0, settings=settings), WindowUpdateFrame(0, window_increment=_WIDE)]
        transport.write(_PREFACE + b"".join(frame.serialize() for frame in first))

    def call(self) -> None:
        """One more."""
        stream = struct.pack(">L", self._next)
        self._began[self._next] = time.perf_counter()
        self._next += 2
        self._transport.write(self._headers[:5] + stream + self._headers[9:] + self._body[:5] + stream + self._body[9:])

    def data_received(self, data: bytes) -> None:
        received, at = self._received + data, 0
        while len(received) - at >= _HEAD:
            end = at + _HEAD + int.from_bytes(received[at : at + 3], "big")
            if len(received) < end:
                break
            stream = int.from_bytes(received[at + 5 : at + _HEAD], "big")
            self._frame(received[at + 3], received[at + 4], stream, received[at + _HEAD : end])
            at = end
        self._received = received[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            body = payload if kind == _PING else b""
            self._transport.write(struct.pack(">LBL", len(body) << 8 | kind, _ACK, 0) + body)
        elif kind == _DATA:
            self._with_message.add(stream)
        elif kind == _RESET:
            self._seen.reset += self._began.pop(stream, None) is not None
        elif kind == _HEADERS and flags & _END_STREAM and stream in self._began:
            took = time.perf_counter() - self._began.pop(stream)
            (self._seen.served if stream in self._with_message else self._seen.refused).append(took)


def _request(path: str, metadata: Sequence[tuple[str, str]], message: bytes) -> tuple[bytes, bytes]:
    """The two frames of a call; their stream is put in later."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers"}
    fields |= {"content-type": "application/grpc", "grpc-timeout": f"{PATIENCE_S:g}S", **dict(metadata)}
    block = Encoder().encode([NeverIndexedHeaderTuple(*each) for each in fields.items()])
    headers, body = HeadersFrame(1, block), DataFrame(1, struct.pack(">?L", False, len(message)) + message)
    return _flagged(headers, "END_HEADERS"), _flagged(body, "END_STREAM")


def _flagged(frame: Frame, flag: str) -> bytes:
    frame.flags.add(flag)
    return bytes(frame.serialize())


async def _flood(address: str, request: tuple[bytes, bytes], rps: float, count: int) -> Paced:
    seen = Paced()
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Connection(seen, request), host, int(port)) for _ in range(CONNECTIONS)
    ]
    began = time.perf_counter()
    while seen.sent < count:
        now = time.perf_counter() - began
        seen.late = max(seen.late, now - seen.sent / rps)
        while seen.sent < min(now * rps, count):
            made[seen.sent % CONNECTIONS][1].call()
            seen.sent += 1
        await asyncio.sleep(_TICK_S)
    last = time.perf_counter()
    while seen.unanswered and time.perf_counter() - last < PATIENCE_S:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(_TICK_S)
    for transport, _ in made:
        transport.close()
    return seen


@asynccontextmanager
async def paced(
    address: str, path: str, metadata: Sequence[tuple[str, str]], message: bytes, *, rps: float, count: int
) -> AsyncIterator[Paced]:
    """Makes `count` calls with one message each, `rps` a second whatever comes of them, from a process of its own.

    Yields:
        What came of them, there after the block.
    """
    arguments = (address, path, json.dumps(metadata), message.hex(), str(rps), str(count))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, *arguments, stdout=asyncio.subprocess.PIPE
    )
    seen = Paced()
    try:
        yield seen
        output, _ = await process.communicate()
        vars(seen).update(json.loads(output))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main(address: str, path: str, metadata: str, message: str, rps: str, count: str) -> None:
    """Makes the calls, and prints what came of them."""
    request = _request(path, json.loads(metadata), bytes.fromhex(message))
    print(json.dumps(vars(asyncio.run(_flood(address, request, float(rps), int(count))))))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
