"""What a URL of Redis leads to: one server, the primary that Sentinels name, or the primaries of a cluster."""

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import parse_url

from services.kit.redis_cluster import ClusterConnections
from services.kit.redis_pool import Command, Pool, Promise
from services.kit.redis_sentinel import SentinelConnections

__all__ = ["Command", "Connections", "Promise", "open_connections"]

_CONNECT_TIMEOUT_S = 1.0
_KINDS = ("+cluster://", "+sentinel://")


class Connections(Protocol):
    """Ways to send commands. No command is done twice; failures are redis-py's."""

    async def exchange(self, commands: Sequence[Command], promise: Promise | None = None) -> list[Any]:
        """The reply to each command, or its error in its place. Waits for a free connection, and for the promise."""

    async def everywhere(self, command: Command) -> list[Any]:
        """The reply of each primary. Raises the first error, when all have had the command."""

    async def place(self, attempt: int) -> dict[str, Any]:
        """Options of a connection for one who only listens to what is published.

        With another attempt it may be another server, where several hear it. Raises redis-py's errors: there is none.
        """

    async def close(self) -> None:
        """Closes the connections that are idle now, and the others when their calls end."""


def open_connections(url: str, size: int) -> Connections:
    """Connections to what the URL names, none of them open yet.

    Args:
        url: As `Redis` says.
        size: How many calls may be at work at once with one server.

    Raises:
        ValueError: the URL is none of these.
    """
    for kind in _KINDS:
        scheme, mark, rest = url.partition(kind)
        if mark:
            return _open_many(kind, scheme, rest, size)
    return _Single(_options(url), size)


def _open_many(kind: str, scheme: str, rest: str, size: int) -> Connections:
    user_info, _, hosts = rest.rpartition("@")
    hosts, _, query = hosts.partition("?")
    hosts, _, path = hosts.partition("/")
    nodes = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if scheme not in {"redis", "rediss"} or not all(node.hostname and node.port for node in nodes):
        raise ValueError("the URL of many servers is redis+cluster:// or redis+sentinel://, and host:port,host:port")
    places = [(node.hostname or "", node.port or 0) for node in nodes]
    account = f"{user_info}@" if user_info else ""
    if kind == "+cluster://":
        return ClusterConnections(places, _options(f"{scheme}://{account}cluster"), size)
    service, _, database = path.partition("/")
    if not service:
        raise ValueError("the URL of Sentinels is redis+sentinel://host:port,host:port/service")
    asked = dict(parse_qsl(query))
    sentinels = _options(f"{scheme}://sentinel") | {"username": asked.get("sentinel_username")}
    sentinels["password"] = asked.get("sentinel_password")
    options = _options(f"{scheme}://{account}primary/{database}")
    return SentinelConnections(places, unquote(service), options, sentinels, size)


def _options(url: str) -> dict[str, Any]:
    return dict(parse_url(url)) | {
        "driver_info": None,  # no CLIENT SETINFO: a reconnect is one round trip less
        "protocol": 2,
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": None,  # the call's own timeout covers it, and costs no task
    }


class _Single:
    """Connections to one server."""

    def __init__(self, options: dict[str, Any], size: int) -> None:
        self._options = options
        self._pool = Pool(options, size)
        self.exchange = self._pool.exchange
        self.close = self._pool.close

    async def place(self, attempt: int) -> dict[str, Any]:
        return dict(self._options)

    async def everywhere(self, command: Command) -> list[Any]:
        replies = await self._pool.exchange([command])
        if isinstance(replies[0], BaseException):
            raise replies[0]
        return replies
