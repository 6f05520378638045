"""Requests that no client library would send: HTTP/1.1 byte by byte, HTTP/2 frame by frame."""

import asyncio
import re
from collections.abc import Iterator, Sequence

HEADERS, DATA, SETTINGS, WINDOW_UPDATE = 1, 0, 4, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1

_PATIENCE_S = 5.0
_SILENT_S = 0.5
"""Who has begun to answer and then says nothing for so long is silent."""


async def http1(address: str, request: bytes, *, all_of_it: bool = False) -> bytes:
    """What is answered to these bytes: the first reply, or `all_of_it`, until the connection ends or is silent."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    try:
        writer.write(request)
        while chunk := await asyncio.wait_for(reader.read(65_536), _SILENT_S if answer else _PATIENCE_S):
            answer += chunk
            if _is_whole(answer) and not all_of_it:
                break
    except (TimeoutError, ConnectionResetError):
        pass
    finally:
        writer.close()
    return answer


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def get(path: str, *lines: str) -> bytes:
    """A GET of a path, as it is, that ends the connection."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]).encode()


def code_of(answer: bytes) -> int:
    """The status of an answer. 0: there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


class Http2:
    """One connection of HTTP/2, without TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._stream = -1

    @classmethod
    async def connect(cls, address: str) -> "Http2":
        host, port = address.split(":")
        made = cls(*await asyncio.open_connection(host, int(port)))
        made._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b""))
        return made

    def close(self) -> None:
        self._writer.close()

    async def post(self, path: str, parts: Sequence[bytes]) -> bytes:
        """The body of the reply to JSON that is sent in these parts, a DATA frame each."""
        self._stream += 2
        pseudo = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
        block = b"".join(_literal({**pseudo, "content-type": "application/json"}))
        self._writer.write(_frame(HEADERS, END_HEADERS, self._stream, block))
        for number, part in enumerate(parts, 1):
            self._writer.write(_frame(DATA, END_STREAM if number == len(parts) else 0, self._stream, part))
        await self._writer.drain()
        return await self._body()

    async def _body(self) -> bytes:
        body = b""
        while True:
            head = await self._reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & ACK:
                self._writer.write(_frame(SETTINGS, ACK, 0, b""))
            elif kind == DATA and payload:
                body += payload
                self._writer.write(_frame(WINDOW_UPDATE, 0, 0, len(payload).to_bytes(4, "big")))
            if stream == self._stream and kind in {HEADERS, DATA} and flags & END_STREAM:
                return body


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _literal(headers: dict[str, str]) -> Iterator[bytes]:
    """Header fields, never indexed and not compressed (RFC 7541, section 6.2.3)."""
    for name, value in headers.items():
        yield b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
