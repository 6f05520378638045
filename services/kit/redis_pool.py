"""Connections to one Redis server, with what redis-py does by itself turned off."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hiredis import pack_command
from redis.asyncio import Connection
from redis.exceptions import ConnectionError, RedisError, ResponseError

from services.kit.functions import Argument

Command = tuple[Argument | float, ...]

_pack: Callable[[Any], bytes] = pack_command


class NotSent(ConnectionError):
    """No connection could be opened: the commands did not reach the server."""


class NotKept(ConnectionError):
    """The server did what it was asked, but its replicas, or the disk, did not say in time that they have it."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What must be so before a write counts as done."""

    replicas: int
    """So many replicas have it."""
    disk: bool
    """It is on the disk of the server and of these replicas."""
    within_ms: int
    """They may take so long to say so."""

    @property
    def command(self) -> Command:
        """What to send after the write, on its connection: it says how many have all that the server did until now.

        All of it, not only this connection's: so a repeat that changes nothing waits for what it repeats.
        """
        if self.disk:
            return ("WAITAOF", 1, self.replicas, self.within_ms)
        return ("WAIT", self.replicas, self.within_ms)

    def is_kept(self, reply: Any) -> bool:
        """Whether that reply says so."""
        if isinstance(reply, BaseException):
            return False
        local, replicas = reply if self.disk else (1, reply)
        return bool(local >= 1 and replicas >= self.replicas)


class Pool:
    """At most so many connections to one server, opened when needed.

    redis-py's own pool that waits is not used: a waiter that is cancelled can take another's wake-up with it, who then
    waits in vain (asyncio.Condition of Python 3.11; seen 24 times in 30,000 calls of which half were cancelled).
    """

    def __init__(
        self, options: dict[str, Any], size: int, greet: Callable[[Connection], Awaitable[None]] | None = None
    ) -> None:
        """Opens nothing yet.

        Args:
            options: Of `redis.asyncio.Connection`; `connection_class` may be another.
            size: How many calls may be under way; others wait.
            greet: Called with each new connection, before its first command. When it raises, that is not used.
        """
        self._options = dict(options)
        self._connection_class = self._options.pop("connection_class", Connection)
        self._greet = greet
        self._idle: list[Connection] = []
        self._at_work: set[Connection] = set()
        self._slots = asyncio.Semaphore(size)
        self._closed = False

    async def exchange(self, commands: Sequence[Command], promise: Promise | None = None) -> list[Any]:
        """The reply to each command, or the error that the server replied with. No command is sent twice.

        Raises:
            NotSent: the server has none of the commands.
            NotKept: it has, and perhaps it alone.
            RedisError, OSError: the server may have them, or not.
        """
        sent = [*commands, promise.command] if promise else commands
        async with self._slots:
            replies = await self._exchange(b"".join(map(_pack, sent)), len(sent))
        if promise is None:
            return replies
        kept = promise.is_kept(replies.pop())
        if not kept and not all(isinstance(reply, ResponseError) for reply in replies):
            raise NotKept("a write was not acknowledged in time")
        return replies

    async def close(self, *, cut: bool = False) -> None:
        """Closes the connections that are idle now, and the others when their calls end; cut: at once."""
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)
        for connection in self._at_work if cut else ():
            writer = connection._writer  # noqa: SLF001 - whoever waits for a reply gets an error instead
            if writer is not None:
                writer.transport.abort()

    async def _exchange(self, packed: bytes, count: int) -> list[Any]:
        connection = self._idle.pop() if self._idle else self._connection_class(**self._options)
        self._at_work.add(connection)
        try:
            if connection.is_connected and await _is_stale(connection):
                await connection.disconnect(nowait=True)
            if not connection.is_connected:
                await self._open(connection)
            # redis-py's asyncio connections pack in Python; hiredis does the same ten times faster.
            await connection.send_packed_command(packed)
            return [await _reply(connection) for _ in range(count)]
        except RuntimeError as error:  # uvloop's for a connection that was reset, see _is_stale
            await connection.disconnect(nowait=True)
            raise ConnectionError("the connection is closed") from error
        except BaseException:
            await connection.disconnect(nowait=True)  # its reply may still come, and is nobody's
            raise
        finally:
            self._at_work.discard(connection)
            if self._closed:
                await connection.disconnect(nowait=True)
            else:
                self._idle.append(connection)

    async def _open(self, connection: Connection) -> None:
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            if self._greet:
                await self._greet(connection)
        except (RedisError, OSError) as error:
            raise NotSent("no connection could be opened") from error
        if self._closed:
            raise NotSent("the connections are closed")


async def ask(connection: Connection, command: Command) -> Any:
    """One reply over a connection that nobody else uses. Raises what the server replies with."""
    await connection.send_packed_command(_pack(command))
    return await connection.read_response()


async def _is_stale(connection: Connection) -> bool:
    """Whether an idle connection is of no more use: the server closed or reset it, or a reply is left over."""
    try:
        if await connection.can_read():
            return True
    except (ConnectionError, OSError):
        return True
    # redis-py does not look; and uvloop raises RuntimeError, no OSError, when a reset connection is written to.
    writer = connection._writer  # noqa: SLF001
    return writer is None or writer.transport.is_closing()


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error
