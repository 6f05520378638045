"""gRPC-Web on the wire: frames of messages and of trailers, plain or in base64."""

import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

TRAILERS = 0x80
CONTENT = {
    "binary": {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
    "text": {
        "content-type": "application/grpc-web-text+proto",
        "accept": "application/grpc-web-text",
        "x-grpc-web": "1",
    },
}


def encoded(message: Any, form: str) -> bytes:
    """The body of a call."""
    plain = message.SerializeToString()
    frame = b"\0" + len(plain).to_bytes(4, "big") + plain
    return base64.b64encode(frame) if form == "text" else frame


async def frames(reply: httpx.Response, form: str) -> AsyncIterator[tuple[int, bytes]]:
    """Kind and content of each frame, as it comes."""
    raw, plain = b"", b""
    async for chunk in reply.aiter_raw():
        if form == "text":
            raw += chunk
            whole = len(raw) // 4 * 4
            plain += b"".join(_quartets(raw[:whole]))
            raw = raw[whole:]
        else:
            plain += chunk
        while len(plain) >= 5 and len(plain) >= 5 + (length := int.from_bytes(plain[1:5], "big")):
            yield plain[0], plain[5 : 5 + length]
            plain = plain[5 + length :]


def _quartets(text: bytes) -> Iterator[bytes]:
    """Parts that were encoded one by one may each end in padding."""
    for start in range(0, len(text), 4):
        yield base64.b64decode(text[start : start + 4])


def trailers(content: bytes) -> dict[str, str]:
    """The content of a frame of trailers."""
    lines = content.decode().strip().split("\r\n")
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
