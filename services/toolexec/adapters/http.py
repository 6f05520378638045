"""HTTP by httpcore2: two pools of connections, one for public addresses and one for the operator's endpoints.

Two, because a pooled connection is checked only when it is made: in one pool, a connection to an endpoint could be
used again for an agent's URL of the same host. There is no cookie jar, no proxy, no netrc and no redirect here, and
nothing is read from the environment.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterable, Callable

import httpcore2

from services.kit.errors import ToolUnavailable
from services.toolexec.adapters.guard import Address, CheckedBackend, Resolve, allowed, is_public
from services.toolexec.domain import HttpRequest, HttpResponse, Url

KEEPALIVE_S = 3.0
"""Shorter than servers' usual 5 s, so that a connection is seldom used in the moment its server closes it."""

_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
)
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_PACKING = 4_096
"""Bytes by which an answer that does not get smaller may grow when it is packed."""
_BESIDE_BODY = 131_072
"""Bytes for heads, those of interim answers among them, and for what stands between chunks of the body."""
_CHUNKS_AT_ONCE = 64
"""A few milliseconds' work, if each is one byte."""


def anywhere(_address: Address) -> bool:
    """The rule for endpoints: the operator named them."""
    return True


class HttpcoreCaller:
    """Speaks HTTP/1.1, over TLS where the URL says so."""

    def __init__(
        self,
        resolve: Resolve,
        *,
        connections: int = 256,
        connect_timeout: float = 3.0,
        allows: Callable[[Address], bool] = is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Opens nothing.

        Args:
            resolve: Knows the addresses of names.
            connections: At most, in each of the two pools.
            connect_timeout: Seconds for a connection, and again for TLS.
            allows: The rule for public addresses.
            trust: Whom TLS believes. None: the system's authorities.
        """
        trust = trust or ssl.create_default_context()
        self._timeouts = {"connect": connect_timeout, "pool": connect_timeout}
        self._guard = CheckedBackend(resolve, allows)
        self._connect_timeout = connect_timeout
        self._public = _pool(self._guard, connections, trust)
        self._endpoints = _pool(CheckedBackend(resolve, anywhere), connections, trust)

    async def call(self, request: HttpRequest) -> HttpResponse:
        """As `HttpCaller.call`."""
        url = httpcore2.URL(
            scheme=request.url.scheme,
            host=request.url.host,
            port=request.url.port,
            target=request.url.target,
        )
        pool = self._public if request.public_only else self._endpoints
        headers = [("Host", _host_header(request)), *request.headers.items()]
        try:
            with allowed(_BESIDE_BODY) as allowance:
                async with pool.stream(
                    request.method, url, headers=headers, content=request.body, extensions={"timeout": self._timeouts}
                ) as response:
                    allowance.left += request.max_bytes
                    found = {name.lower(): value for name, value in response.headers}
                    encoding = found.get(b"content-encoding", b"").lower()
                    body, truncated = await _read(response.aiter_stream(), encoding, request.max_bytes)
        except _FAILURES:
            raise ToolUnavailable("the tool cannot be reached, or broke off its answer") from None
        content_type = found.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        location = found.get(b"location", b"").decode("latin-1")
        return HttpResponse(response.status, content_type, body, truncated, location)

    async def check(self, url: Url) -> None:
        """As `HttpCaller.check`."""
        await self._guard.check(url.host, url.port, self._connect_timeout)

    async def close(self) -> None:
        """Closes all connections."""
        await self._public.aclose()
        await self._endpoints.aclose()


def _pool(backend: CheckedBackend, connections: int, trust: ssl.SSLContext) -> httpcore2.AsyncConnectionPool:
    return httpcore2.AsyncConnectionPool(
        ssl_context=trust,
        max_connections=connections,
        keepalive_expiry=KEEPALIVE_S,
        network_backend=backend,
    )


def _host_header(request: HttpRequest) -> str:
    url = request.url
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port == {"http": 80, "https": 443}[url.scheme] else f"{host}:{url.port}"


async def _read(chunks: AsyncIterable[bytes], encoding: bytes, limit: int) -> tuple[bytes, bool]:
    """The decoded body, cut at `limit` bytes, and whether it was cut.

    Raises:
        ToolUnavailable: it is encoded in a way nobody asked for, or its encoding is broken.
    """
    if encoding not in {b"", b"identity", b"gzip", b"x-gzip", b"deflate"}:
        raise ToolUnavailable("the tool answered in an encoding that was not asked for")
    packed = None if encoding in {b"", b"identity"} else zlib.decompressobj(_GZIP_OR_ZLIB)
    body, received, count = bytearray(), 0, 0
    try:
        async for chunk in chunks:
            count += 1
            if count % _CHUNKS_AT_ONCE == 0:
                await asyncio.sleep(0)  # what has arrived is read without a pause: let deadlines and others in
            room = limit + 1 - len(body)
            # zlib stops at so many bytes of output, so a bomb is never unpacked.
            body += packed.decompress(chunk, room) if packed else chunk[:room]
            received += len(chunk)
            # What is packed may unpack to nothing, and what follows its end is kept by zlib: both count as received.
            if len(body) > limit or received > limit + _PACKING:
                return bytes(body[:limit]), True
    except zlib.error:
        raise ToolUnavailable("the tool's answer is packed wrongly") from None
    if packed and body and not packed.eof:
        raise ToolUnavailable("the tool's answer ends too early")
    return bytes(body), False
