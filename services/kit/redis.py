"""The one way to Redis: one server (`redis://`), a primary that Sentinels name, or a cluster.

What redis-py does by default and must not: it sends a command again when its reply is lost, so that a write happens
twice; it fails when its pool is empty instead of waiting; with RESP 3 it does not see that a pooled connection was
closed. Here no command is done twice, a call waits for a connection, and one timeout bounds all of a call.

A server that dies takes with it what its replicas do not have yet. Where `replicas` or `disk` says so, a write that
promises something counts as done only when they have it; which writes do, `functions.LOSABLE` and callers say.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.exceptions import (
    ClusterError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from services.kit.errors import StoreFull, StoreUnavailable
from services.kit.functions import MISSING, Argument, read_library, refusal
from services.kit.redis_connections import Command, Promise, open_connections
from services.kit.redis_listener import Listener

_DOWN = (
    ClusterError,
    ConnectionError,
    MovedError,
    OSError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TimeoutError,
    TryAgainError,
)
_DOWN_CODES = frozenset({"BUSY", "LOADING", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED"})
_FULL_CODE = "MISCONF"
"""It cannot write its log."""
_BLOCKING_CONNECTIONS = 16
_KEPT_WITHIN = 0.6
"""Share of a call's time in which the replicas must have said that they have a write."""

T = TypeVar("T")


def translate(error: BaseException) -> BaseException:
    """What a failure of redis-py means to us; the one place that knows.

    Returns:
        StoreUnavailable when the server cannot serve now: a write may or may not have happened. StoreFull when it has
        no room for a write. The refusal of one of our functions as the ServiceError named by its reason. Anything else,
        a wrong command for one, as it came.
    """
    code = str(error).partition(" ")[0]
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and code == _FULL_CODE):
        return StoreFull("the store is full", retry_after=1)
    if isinstance(error, _DOWN):
        return StoreUnavailable("the store does not answer", retry_after=1)
    if isinstance(error, ResponseError):
        if code in _DOWN_CODES:
            return StoreUnavailable("the store cannot serve now", retry_after=1)
        return refusal(str(error)) or error
    return error


class Redis:
    """Commands and functions. Replies are the server's own: bytes, int, None and lists of these."""

    def __init__(
        self, url: str, *, connections: int = 32, timeout: float = 1.5, replicas: int = 0, disk: bool = False
    ) -> None:
        """Opens nothing yet.

        Args:
            url: One server: `redis://[user:password@]host:port[/db]`. The primary of a service that Sentinels watch:
                `redis+sentinel://[user:password@]host:port,host:port/service[/db]`, where `?sentinel_username=` and
                `&sentinel_password=` are for them. A cluster: `redis+cluster://[user:password@]host:port,host:port`.
                `rediss` instead of `redis` for TLS.
            connections: How many calls may be under way with one server; others wait.
            timeout: Longest time of one call in seconds, waiting for a connection included.
            replicas: A write that is to be kept counts as done when so many replicas have it.
            disk: It counts as done when it is on the disk, of these replicas too.

        Raises:
            ValueError: the URL is none of these.
        """
        self._timeout = timeout
        promise = Promise(replicas, disk, int(timeout * _KEPT_WITHIN * 1000))
        self._promise = promise if replicas or disk else None
        self._calls = open_connections(url, connections)
        self._waits = open_connections(url, _BLOCKING_CONNECTIONS)
        self._library = read_library()
        self._loading: asyncio.Future[Any] | None = None

    async def execute(self, *command: Argument | float, kept: bool | None = None) -> Any:
        """Sends one command.

        Args:
            command: Its name, and its arguments.
            kept: As for `replies`.

        Raises:
            StoreUnavailable: the server does not answer or cannot serve now, or what was to be kept may not be; a write
                may have happened.
            ResponseError: the server calls the command wrong.
        """
        (reply,) = await self.pipeline([command], kept=kept)
        return reply

    async def call(self, function: str, keys: tuple[str, ...], *arguments: Argument) -> Any:
        """Calls one of our functions. Its keys are of one tag.

        Raises:
            ServiceError: the function refused; StoreUnavailable as `execute`.
        """
        return await self.execute(*self.function(function, keys, *arguments))

    def function(self, function: str, keys: tuple[str, ...], *arguments: Argument) -> Command:
        """The command that calls one of our functions, for a pipeline."""
        return self._library.command(function, keys, *arguments)

    async def pipeline(self, commands: Sequence[Command], *, kept: bool | None = None) -> list[Any]:
        """Sends commands together: one round trip, with each primary of a cluster at the same time.

        Raises:
            ServiceError: the first failure among the replies; the other commands may have happened.
        """
        replies = await self.replies(commands, kept=kept)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    async def replies(self, commands: Sequence[Command], *, kept: bool | None = None) -> list[Any]:
        """As `pipeline`, with each command's failure in its place.

        Args:
            commands: Independent of each other.
            kept: Whether to wait, in the same round trip, until replicas or the disk have what was written, if this
                client is to. None: when one of the commands calls a function that promises something.

        Raises:
            StoreUnavailable: there is no reply at all, or what was to be kept may not be.
        """
        promise = self._promise
        if promise and not (any(map(self._library.promises, commands)) if kept is None else kept):
            promise = None
        replies = await _bounded(self._timeout, self._exchange(commands, promise))
        return [translate(reply) if isinstance(reply, BaseException) else reply for reply in replies]

    async def wait(self, *command: Argument | float, at_most: float) -> Any:
        """Sends a command that blocks on the server (`XREAD BLOCK`), on a connection apart from the others'.

        Args:
            command: The command, told to block for `at_most` at most.
            at_most: Seconds.
        """
        (reply,) = await _bounded(at_most + self._timeout, self._waits.exchange([command]))
        if isinstance(reply, BaseException):
            raise translate(reply)
        return reply

    def listener(self, heard: Callable[[str, bytes | None], None]) -> Listener:
        """One who hears what is published, on a connection of its own; `Listener` says what `heard` is told."""
        return Listener(self._calls.place, heard)

    async def check(self) -> None:
        """Returns when every primary answers and has our functions, which it gets when it has not.

        It is not `PING`, which fails while a full disk refuses writes and reads still work.

        Raises:
            StoreUnavailable: one of them does not answer.
        """
        await _bounded(self._timeout, self._check())

    async def close(self) -> None:
        """Closes all connections. Calls under way fail."""
        await self._calls.close()
        await self._waits.close()

    async def _exchange(self, commands: Sequence[Command], promise: Promise | None) -> list[Any]:
        replies = await self._calls.exchange(commands, promise)
        again = [i for i, reply in enumerate(replies) if _is_missing(reply)]
        if again:
            await self._load()
            found = await self._calls.exchange([commands[i] for i in again], promise)
            for i, reply in zip(again, found, strict=True):
                replies[i] = reply
        return replies

    async def _check(self) -> None:
        found = await self._calls.everywhere(("FUNCTION", "LIST", "LIBRARYNAME", self._library.name))
        if not all(found):
            await self._load()

    async def _load(self) -> None:
        """Gives the functions to every primary. Whoever needs them meanwhile waits for the same.

        Raises:
            StoreUnavailable: the user of this client must not; `acl.ROWS` says who loads them.
        """
        if self._loading is None or self._loading.done():
            loading = self._calls.everywhere(("FUNCTION", "LOAD", "REPLACE", self._library.code))
            self._loading = asyncio.ensure_future(loading)
        try:
            await asyncio.shield(self._loading)
        except NoPermissionError as error:
            raise StoreUnavailable("the store lacks our functions, which another user loads", retry_after=1) from error


async def _bounded(seconds: float, work: Awaitable[T]) -> T:
    """What the work comes to. Ends it when it takes longer, and raises redis-py's failures as ours."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except (*_DOWN, ResponseError) as error:  # OSError: asyncio's timeout is one
        translated = translate(error)
        if translated is error:
            raise
        raise translated from error


def _is_missing(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).endswith(MISSING)
