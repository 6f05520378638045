"""TLS between services: both sides show a certificate of one authority, from files that may change at any time.

gRPC's servers ask for the certificate at each handshake. Its channels keep what they began with, so ours is a channel
that opens another when the files have changed; calls under way end on the one they began on.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc.aio import Channel

LOOK_EVERY_S = 1.0


class _Pems(NamedTuple):
    certificate: bytes
    key: bytes
    authority: bytes


class Certificates:
    """A certificate, its key, and the authority that signed those of all peers: PEM files."""

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        """Reads the files.

        Raises:
            ValueError: they cannot be read, are no PEM, or the key is another certificate's.
        """
        self._files = (certificate, key, authority)
        self._pems = self._read()
        self.version = 0
        """Grows by one when the files have changed."""

    def server(self) -> grpc.ServerCredentials:
        """For a port that lets only peers in whose certificate the authority signed."""
        given = self._pems

        def changed() -> Any:
            # gRPC asks before each handshake, and is told of a change only: if another handshake begins while it takes
            # a configuration, it may crash (docs/adr/0011), so that must be as rare as changes are.
            nonlocal given
            if given is self._pems:
                return None
            given = self._pems
            return _configuration(given)

        return grpc.dynamic_ssl_server_credentials(_configuration(given), changed, require_client_authentication=True)

    def client(self) -> grpc.ChannelCredentials:
        """For a channel; those of now."""
        return grpc.ssl_channel_credentials(self._pems.authority, self._pems.key, self._pems.certificate)

    async def follow(self, every_s: float = LOOK_EVERY_S, taken: Callable[[], Awaitable[None]] | None = None) -> None:
        """Reads the files again and again, and takes what is whole; awaits `taken` then. Ends only by cancellation."""
        import structlog  # here: the command line calls, follows nothing, and does not wait for it

        log = structlog.get_logger(__name__)
        complaint = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                read = await asyncio.to_thread(self._read)
            except ValueError as error:
                # In the middle of a change the key is another certificate's: what was read before stays.
                if str(error) != complaint:
                    log.warning("certificates not taken", error=str(error))
                complaint = str(error)
                continue
            complaint = ""
            if read != self._pems:
                self._pems = read
                self.version += 1
                log.info("certificates taken", version=self.version)
                if taken is not None:
                    await taken()

    def _read(self) -> _Pems:
        certificate, key, _ = self._files
        try:
            read = _Pems(*(file.read_bytes() for file in self._files))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key, password="")
            context.load_verify_locations(cadata=read.authority.decode("ascii"))
            if read != _Pems(*(file.read_bytes() for file in self._files)):
                raise ValueError("they change just now")
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            what = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ValueError(f"the certificates cannot be used: {what}") from None
        return read


def _configuration(pems: _Pems) -> Any:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], pems.authority)


class _Opened:
    """One channel, closed when it is no longer the current one and its last call has ended."""

    def __init__(self, channel: Channel, version: int) -> None:
        self.channel = channel
        self.version = version
        self._calls = 0
        self._retired = False
        self._closing: asyncio.Task[None] | None = None

    def began(self, call: Any) -> Any:
        self._calls += 1
        call.add_done_callback(self._ended)
        return call

    def retire(self) -> None:
        self._retired = True
        self._close_if_idle()

    @property
    def closed(self) -> bool:
        return self._closing is not None and self._closing.done()

    async def close(self, grace: float | None) -> None:
        await self.channel.close(grace)
        if self._closing is not None:
            await self._closing

    def _ended(self, _call: Any) -> None:
        self._calls -= 1
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and not self._calls and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self.channel.close())


class RenewedChannel(Channel):
    """A channel that speaks with the certificates of now."""

    def __init__(self, certificates: Certificates, open_channel: Callable[[grpc.ChannelCredentials], Channel]) -> None:
        """Opens channels by `open_channel`."""
        self._certificates = certificates
        self._open = open_channel
        self._opened = _Opened(open_channel(certificates.client()), certificates.version)
        self._retired: list[_Opened] = []

    def current(self) -> _Opened:
        """The channel to call on."""
        if self._opened.version != self._certificates.version:
            old, version = self._opened, self._certificates.version
            self._opened = _Opened(self._open(self._certificates.client()), version)
            old.retire()
            self._retired = [each for each in (*self._retired, old) if not each.closed]
        return self._opened

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """A method with one reply."""
        return _Method(self, "unary_unary", args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """A method with a stream of replies."""
        return _Method(self, "unary_stream", args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """A method with a stream of requests."""
        return _Method(self, "stream_unary", args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """A method with streams both ways."""
        return _Method(self, "stream_stream", args, options)

    async def close(self, grace: float | None = None) -> None:
        """Closes the current channel, and those before it on which calls still go on."""
        await asyncio.gather(*(each.close(grace) for each in (self._opened, *self._retired)))

    async def __aenter__(self) -> "RenewedChannel":
        """Nothing to open."""
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Closes."""
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The current channel's."""
        return self.current().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """The current channel's."""
        await self.current().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when the current channel is connected."""
        await self.current().channel.channel_ready()


class _Method:
    """A method of a stub, on whatever channel is the current one."""

    def __init__(self, owner: RenewedChannel, kind: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._owner, self._kind, self._args, self._options = owner, kind, args, options
        self._on: _Opened | None = None
        self._method: Any = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        on = self._owner.current()
        if on is not self._on:
            self._on, self._method = on, getattr(on.channel, self._kind)(*self._args, **self._options)
        return on.began(self._method(*args, **options))
