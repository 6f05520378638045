"""The one way to Redis: one server (`redis://`) or a cluster (`redis+cluster://`).

What redis-py does by default and must not: it sends a command again when its reply is lost, so that a write happens
twice; it fails when its pool is empty instead of waiting; with RESP 3 it does not see that a pooled connection was
closed. Here no command is sent twice, a call waits for a connection, and one timeout bounds all of a call.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from redis.asyncio import Connection
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
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

Command = tuple[Argument | float, ...]

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
_OF_CLUSTERS = ("CLUSTER", "COMMAND")
"""Commands whose replies the cluster client itself reads."""
_CONNECT_TIMEOUT_S = 1.0
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
            connections: How many calls may be under way; to each node, when it is a cluster. Others wait.
            timeout: Longest time of one call in seconds, waiting for a connection included.

        Raises:
            ValueError: the URL is none of these.
        """
        self._timeout = timeout
        self._calls = _open(url, connections)
        self._waits = _open(url, _BLOCKING_CONNECTIONS)
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


class _Lane(Protocol):
    async def exchange(self, commands: Sequence[Command]) -> list[Any]: ...
    async def everywhere(self, command: Command) -> list[Any]: ...
    async def close(self) -> None: ...


class _Single:
    """Connections to one server.

    redis-py's own pools are not used: cancelling a call while its connection goes back to `BlockingConnectionPool` can
    lose the connection, and a cancelled waiter can lose another's wake-up (asyncio.Condition before Python 3.12).
    """

    def __init__(self, options: dict[str, Any], size: int) -> None:
        self._connection_class = options.pop("connection_class", Connection)
        self._options = options
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(size)
        self._closed = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        async with self._connection() as connection:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _reply(connection) for _ in commands]

    async def everywhere(self, command: Command) -> list[Any]:
        replies = await self.exchange([command])
        if isinstance(replies[0], BaseException):
            raise replies[0]
        return replies

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._slots:
            connection = self._idle.pop() if self._idle else self._connection_class(**self._options)
            try:
                if connection.is_connected and await connection.can_read():
                    await connection.disconnect(nowait=True)  # the server closed it, or a reply is left over
                yield connection
            except BaseException:
                await connection.disconnect(nowait=True)  # its reply may still come, and is nobody's
                raise
            finally:
                if self._closed:
                    await connection.disconnect(nowait=True)
                else:
                    self._idle.append(connection)


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error


class _Cluster:
    """Connections to the primaries of a cluster, by redis-py, which follows the slots as they move."""

    def __init__(self, nodes: Sequence[tuple[str, int]], options: dict[str, Any], size: int) -> None:
        options |= {
            "retry": Retry(NoBackoff(), 0),
            "max_connections": 2 * size,  # one marked for reconnect comes back to its node after its call has ended
            "reinitialize_steps": 0,  # else every fifth MOVED closes all connections, those at work too
        }
        self._client = RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in nodes], **options)
        unparsed: Any = _as_it_came
        for name in list(self._client.response_callbacks):
            if not name.startswith(_OF_CLUSTERS):
                self._client.set_response_callback(name, unparsed)
        self._slots = asyncio.Semaphore(size)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        return await asyncio.gather(*(self._execute(command) for command in commands), return_exceptions=True)

    async def everywhere(self, command: Command) -> list[Any]:
        await self._client.initialize()
        primaries = self._client.get_primaries()
        return await asyncio.gather(
            *(self._client.execute_command(*command, target_nodes=primary) for primary in primaries)
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def _execute(self, command: Command) -> Any:
        async with self._slots:
            await self._client.initialize()  # else redis-py sends the command to any node
            if command[0] != "FCALL":
                return await self._client.execute_command(*command)
            # redis-py would ask the server where the keys of a function call are, arguments and all, before each call.
            node = self._client.get_node_from_key(str(command[3]))
            return await self._client.execute_command(*command, target_nodes=node)


def _as_it_came(reply: Any, **_options: Any) -> Any:
    return reply


def _open(url: str, size: int) -> _Lane:
    scheme, mark, rest = url.partition("+cluster://")
    common: dict[str, Any] = {
        "driver_info": None,  # no CLIENT SETINFO: a reconnect is one round trip less
        "protocol": 2,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": None,  # the call's own timeout covers it, and costs no task
    }
    if not mark:
        return _Single(dict(parse_url(url)) | common | {"retry": Retry(NoBackoff(), 0)}, size)
    user_info, _, hosts = rest.rpartition("@")
    username, _, password = user_info.partition(":")
    nodes = [urlsplit(f"//{host}") for host in hosts.rstrip("/").split(",")]
    if scheme not in {"redis", "rediss"} or not all(node.hostname and node.port for node in nodes):
        raise ValueError("the URL of a cluster is redis+cluster://[user:password@]host:port,host:port")
    common |= {"username": unquote(username) or None, "password": unquote(password) or None, "ssl": scheme == "rediss"}
    return _Cluster([(node.hostname or "", node.port or 0) for node in nodes], common, size)


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
