"""The one way to Redis: one server (`redis://`) or a cluster (`redis+cluster://`).

What redis-py does by default and must not: it sends a command again when its reply is lost, so that a write happens
twice; it fails when its pool is empty instead of waiting; with RESP 3 it does not see that a pooled connection was
closed. Here no command is sent twice, a call waits for a connection, and one timeout bounds all of a call.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import (
    ClusterError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from services.kit.errors import StoreUnavailable
from services.kit.functions import MISSING, Argument, read_library, refusal
from services.kit.redis_connections import Command, open_connections

_DOWN = (
    ClusterError,
    ConnectionError,
    OSError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TimeoutError,
    TryAgainError,
)
_DOWN_CODES = frozenset({"BUSY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "UNBLOCKED"})
_BLOCKING_CONNECTIONS = 16


def translate(error: BaseException) -> BaseException:
    """What a failure of redis-py means to us; the one place that knows.

    Returns:
        StoreUnavailable when the server cannot serve now: a write may or may not have happened. The refusal of one of
        our functions as the ServiceError named by its reason. Anything else, a wrong command for one, as it came.
    """
    if isinstance(error, _DOWN):
        return StoreUnavailable("the store does not answer", retry_after=1)
    if isinstance(error, ResponseError):
        if str(error).partition(" ")[0] in _DOWN_CODES:
            return StoreUnavailable("the store cannot serve now", retry_after=1)
        return refusal(str(error)) or error
    return error


class Redis:
    """Commands and functions. Replies are the server's own: bytes, int, None and lists of these."""

    def __init__(self, url: str, *, connections: int = 32, timeout: float = 1.5) -> None:
        """Opens nothing yet.

        Args:
            url: `redis://[user:password@]host:port[/db]`, `rediss://` for TLS, or
                `redis+cluster://[user:password@]host:port,host:port`, `rediss+cluster://` for TLS.
            connections: How many commands may be under way; others wait. Those of a pipeline count as one, but in a
                cluster each for itself.
            timeout: Longest time of one call in seconds, waiting for a connection included.

        Raises:
            ValueError: the URL is none of these.
        """
        self._timeout = timeout
        self._calls = open_connections(url, connections)
        self._waits = open_connections(url, _BLOCKING_CONNECTIONS)
        self._library = read_library()

    async def execute(self, *command: Argument | float) -> Any:
        """Sends one command.

        Raises:
            StoreUnavailable: the server does not answer or cannot serve now; a write may have happened.
            ResponseError: the server calls the command wrong.
        """
        (reply,) = await self.pipeline([command])
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

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands together: one round trip, or one each at the same time when it is a cluster.

        Raises:
            ServiceError: the first failure among the replies; the other commands may have happened.
        """
        replies = await self.replies(commands)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    async def replies(self, commands: Sequence[Command]) -> list[Any]:
        """As `pipeline`, with each command's failure in its place.

        Raises:
            StoreUnavailable: there is no reply at all.
        """
        async with _bounded(self._timeout):
            replies = await self._calls.exchange(commands)
            again = [i for i, reply in enumerate(replies) if _is_missing(reply)]
            if again:
                await self._load()
                for i, reply in zip(again, await self._calls.exchange([commands[i] for i in again]), strict=True):
                    replies[i] = reply
        return [translate(reply) if isinstance(reply, BaseException) else reply for reply in replies]

    async def wait(self, *command: Argument | float, at_most: float) -> Any:
        """Sends a command that blocks on the server (`XREAD BLOCK`), on a connection apart from the others'.

        Args:
            command: The command, told to block for `at_most` at most.
            at_most: Seconds.
        """
        async with _bounded(at_most + self._timeout):
            (reply,) = await self._waits.exchange([command])
            if isinstance(reply, BaseException):
                raise reply
        return reply

    async def check(self) -> None:
        """Returns when every primary answers and has our functions, which it gets when it has not.

        It is not `PING`, which fails while a full disk refuses writes and reads still work.

        Raises:
            StoreUnavailable: one of them does not answer.
        """
        async with _bounded(self._timeout):
            found = await self._calls.everywhere(("FUNCTION", "LIST", "LIBRARYNAME", self._library.name))
            if not all(found):
                await self._load()

    async def close(self) -> None:
        """Closes all connections. Calls under way fail."""
        await self._calls.close()
        await self._waits.close()

    async def _load(self) -> None:
        await self._calls.everywhere(("FUNCTION", "LOAD", "REPLACE", self._library.code))


@asynccontextmanager
async def _bounded(seconds: float) -> AsyncIterator[None]:
    """Ends what takes longer, and raises redis-py's failures as ours."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (*_DOWN, ResponseError) as error:  # OSError: asyncio's timeout is one
        translated = translate(error)
        if translated is error:
            raise
        raise translated from error


def _is_missing(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and str(reply).endswith(MISSING)
