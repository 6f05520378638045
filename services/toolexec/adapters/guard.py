"""Which addresses tools may reach, checked where a connection is made, and how much they may send.

A name is resolved here, every address it has is checked, and the connection goes to an address that was checked: a name
that changes its answer between check and connection gains nothing, and nothing at all is sent to an address that is
refused, not even a SYN.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from types import MappingProxyType
from typing import Any

import anyio
import httpcore2

from services.kit.errors import FailedPrecondition, ToolResponseTooLarge

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses. Raises OSError when there are none."""

_RESOLVER_THREADS = 16
_MAX_ADDRESSES = 4
_READ_AT_ONCE = 16_384
"""Bytes, before others get their turn. They may be hundreds of interim answers."""
_NAT64 = ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ip_network("2000::/3")
# The IANA special-purpose registries; then multicast, and a cloud's metadata that has a public address.
_REFUSED = MappingProxyType(
    {
        4: tuple(
            ip_network(each)
            for each in (
                "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
                "192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 "
                "224.0.0.0/4 168.63.129.16/32"
            ).split()
        ),
        6: tuple(ip_network(each) for each in "2001::/23 2001:db8::/32 2002::/16 3fff::/20".split()),
    }
)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could reach it. Of an IPv6 address that stands for an IPv4 one: that one."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
        if address not in _GLOBAL_UNICAST:
            return False
    return not any(address in network for network in _REFUSED[address.version])


class SystemResolver:
    """Resolves as this machine does, in threads of its own: a slow name server holds up no other work."""

    def __init__(self) -> None:
        """Starts threads when they are needed."""
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Addresses of a host, the preferred first."""
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _resolve, host, port)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Waits for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _resolve(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@dataclass(slots=True)
class Allowance:
    """How many bytes a call may yet read: of heads, chunks' sizes and bodies alike."""

    left: int


_allowance: ContextVar[Allowance] = ContextVar("allowance")
"""Of the call at hand: a connection serves many."""


@contextmanager
def allowed(count: int) -> Iterator[Allowance]:
    """In the block, connections are read until `count` bytes, and what is added to them, have come."""
    token = _allowance.set(Allowance(count))
    try:
        yield _allowance.get()
    finally:
        _allowance.reset(token)


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Makes connections only to addresses that are allowed."""

    def __init__(self, resolve: Resolve, allows: Callable[[Address], bool]) -> None:
        """Opens nothing.

        Args:
            resolve: Knows the addresses of names, and of addresses written in unusual ways.
            allows: The rule. A host with one address that breaks it is refused as a whole.
        """
        self._resolve = resolve
        self._allows = allows
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connects to the first address of a host that answers.

        Raises:
            FailedPrecondition: the host has an address that is not allowed.
            httpcore2.ConnectError, httpcore2.ConnectTimeout: none answers.
        """
        until = None if timeout is None else time.monotonic() + timeout
        failure: Exception = httpcore2.ConnectError("there is no such host")
        for address in await self._addresses(host, port, timeout):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise httpcore2.ConnectTimeout("no address answered in time")
            try:
                stream = await self._backend.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream)
        raise failure

    async def check(self, host: str, port: int, timeout: float) -> None:
        """Returns when every address of a host is allowed, or none is known in time. Connects to nothing.

        Raises:
            FailedPrecondition: the host has an address that is not allowed.
        """
        with suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
            await self._addresses(host, port, timeout)

    async def sleep(self, seconds: float) -> None:
        """Sleeps."""
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int, seconds: float | None) -> Sequence[str]:
        try:
            async with asyncio.timeout(seconds):
                found = (await self._resolve(host, port))[:_MAX_ADDRESSES]
        except TimeoutError:
            raise httpcore2.ConnectTimeout("the name was not resolved in time") from None
        except (OSError, UnicodeError):
            raise httpcore2.ConnectError("there is no such host") from None
        for address in found:
            if not self._allows(ip_address(address)):
                raise FailedPrecondition("the tool may only call public addresses")
        return found


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection that counts what is read.

    It is closed when its TLS handshake is cancelled; httpcore2's own would stay open.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        allowance = _allowance.get()
        if allowance.left <= 0:
            raise ToolResponseTooLarge("the tool's answer is larger than it may be")
        data = await self._stream.read(min(max_bytes, _READ_AT_ONCE), timeout)
        allowance.left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
