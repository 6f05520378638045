"""Connections to one Redis server or to a cluster, with what redis-py does by itself turned off."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from hiredis import pack_command
from redis.asyncio import Connection
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ResponseError

from services.kit.functions import Argument

Command = tuple[Argument | float, ...]

_OF_CLUSTERS = ("CLUSTER", "COMMAND")
"""Commands whose replies the cluster client itself reads."""
_CONNECT_TIMEOUT_S = 1.0


class Connections(Protocol):
    """Ways to send commands. No command is sent twice; failures are redis-py's."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to each command, or the error that the server replied with. Waits for a free connection."""

    async def everywhere(self, command: Command) -> list[Any]:
        """The reply of each primary. Raises the first error."""

    async def close(self) -> None:
        """Closes the connections that are idle now, and the others when their calls end."""


def open_connections(url: str, size: int) -> Connections:
    """Connections to what the URL names, none of them open yet.

    Args:
        url: `redis://...` or `redis+cluster://...`; `Redis` says what they look like.
        size: How many may be at work at once.

    Raises:
        ValueError: the URL is none of these.
    """
    scheme, mark, rest = url.partition("+cluster://")
    common: dict[str, Any] = {
        "driver_info": None,  # no CLIENT SETINFO: a reconnect is one round trip less
        "protocol": 2,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": None,  # the call's own timeout covers it, and costs no task
    }
    if not mark:
        return _Single(dict(parse_url(url)) | common, size)
    user_info, _, hosts = rest.rpartition("@")
    username, _, password = user_info.partition(":")
    nodes = [urlsplit(f"//{host}") for host in hosts.rstrip("/").split(",")]
    if scheme not in {"redis", "rediss"} or not all(node.hostname and node.port for node in nodes):
        raise ValueError("the URL of a cluster is redis+cluster://[user:password@]host:port,host:port")
    common |= {"username": unquote(username) or None, "password": unquote(password) or None, "ssl": scheme == "rediss"}
    return _Cluster([(node.hostname or "", node.port or 0) for node in nodes], common, size)


_pack: Callable[[Any], bytes] = pack_command


class _Single:
    """Connections to one server.

    redis-py's own pool that waits is not used: a waiter that is cancelled can take another's wake-up with it, who then
    waits in vain (asyncio.Condition of Python 3.11; seen 24 times in 30,000 calls of which half were cancelled).
    """

    def __init__(self, options: dict[str, Any], size: int) -> None:
        self._connection_class = options.pop("connection_class", Connection)
        self._options = options
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(size)
        self._closed = False

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        async with self._connection() as connection:
            # redis-py's asyncio connections pack in Python; hiredis does the same ten times faster.
            await connection.send_packed_command(b"".join(map(_pack, commands)))
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
                if connection.is_connected and await _is_stale(connection):
                    await connection.disconnect(nowait=True)
                yield connection
            except BaseException:
                await connection.disconnect(nowait=True)  # its reply may still come, and is nobody's
                raise
            finally:
                if self._closed:
                    await connection.disconnect(nowait=True)
                else:
                    self._idle.append(connection)


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
        try:
            return await self._execute_once(command)
        except RuntimeError as error:  # uvloop's for a connection that was reset, see _is_stale
            raise ConnectionError("the connection is closed") from error

    async def _execute_once(self, command: Command) -> Any:
        async with self._slots:
            await self._client.initialize()  # else redis-py sends the command to any node
            if command[0] != "FCALL":
                return await self._client.execute_command(*command)
            # redis-py would ask the server where the keys of a function call are, arguments and all, before each call.
            node = self._client.get_node_from_key(str(command[3]))
            return await self._client.execute_command(*command, target_nodes=node)


def _as_it_came(reply: Any, **_options: Any) -> Any:
    return reply
