"""Connections to the primary that Sentinels name, and to the next one after a failover.

redis-py's own support for Sentinels is not used. It believes the first that answers, which may be cut off with the old
primary; it asks again only when a connection breaks, and a connection to a server that is cut off does not break; and
its pools cannot wait (`redis_pool.Pool`).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Connection
from redis.exceptions import ConnectionError, ReadOnlyError, RedisError, ResponseError

from services.kit.redis_asking import Asking, answers_of_most
from services.kit.redis_pool import Command, NotSent, Pool, Promise, ask

Address = tuple[str, int]

_ANSWER_S = 0.5
"""So long a Sentinel has to answer."""

_NO_REPLICAS = "NOREPLICAS"
_PAUSE_S = 0.2
_FRESH_S = 1.0
"""What Sentinels say is asked for again after so long, also while all is well: a primary that was replaced takes writes
for up to ten seconds more, until a Sentinel tells it, and they are lost."""


class SentinelConnections:
    """Connections to the primary of a service. What it names as primary is asked whether it is."""

    def __init__(
        self,
        sentinels: Sequence[Address],
        service: str,
        options: dict[str, Any],
        sentinel_options: dict[str, Any],
        size: int,
    ) -> None:
        """Opens nothing yet.

        Args:
            sentinels: Where they listen.
            service: What they call the primary and its replicas.
            options: How to connect to the primary.
            sentinel_options: How to connect to a Sentinel.
            size: How many calls may be at work at once.
        """
        self._service = service
        self._options, self._size = options, size
        asking = sentinel_options | {"socket_connect_timeout": _ANSWER_S}
        self._sentinels = [Pool(asking | {"host": host, "port": port}, 1) for host, port in sentinels]
        self._address: Address | None = None
        self._pool: Pool | None = None
        self._epoch = 0
        self._suspected = False
        self._asked_at = 0.0
        self._asking = Asking(self._ask_all, lambda: not self._suspected, _PAUSE_S)
        self._retired: set[asyncio.Task[None]] = set()

    async def exchange(self, commands: Sequence[Command], promise: Promise | None = None) -> list[Any]:
        """As `Connections.exchange`. What the server surely did not do is sent to its successor."""
        if self._pool is None:
            await self._asking.ask()
        pool = self._primary()
        try:
            replies = await self._attempt(pool, commands, promise)
        except NotSent:
            await self._asking.ask()
            if self._pool is pool:
                raise
            return await self._attempt(self._primary(), commands, promise)
        refused = [i for i, reply in enumerate(replies) if _is_cut_off(reply)]
        if refused:
            self._suspect()
            await self._asking.ask()
            if self._pool is not pool:
                again = await self._attempt(self._primary(), [commands[i] for i in refused], promise)
                for i, reply in zip(refused, again, strict=True):
                    replies[i] = reply
        return replies

    async def everywhere(self, command: Command) -> list[Any]:
        """As `Connections.everywhere`: there is one primary."""
        replies = await self.exchange([command])
        if isinstance(replies[0], BaseException):
            raise replies[0]
        return replies

    async def place(self, attempt: int) -> dict[str, Any]:
        """As `Connections.place`: only the primary hears."""
        if attempt or self._address is None:
            await self._asking.ask()
        if self._address is None:
            raise NotSent("no Sentinel names a primary")
        host, port = self._address
        return self._options | {"host": host, "port": port}

    async def close(self) -> None:
        """As `Connections.close`."""
        await self._asking.close()
        await asyncio.gather(*self._retired, return_exceptions=True)
        for pool in (*self._sentinels, *([self._pool] if self._pool else [])):
            await pool.close()

    def _primary(self) -> Pool:
        if self._pool is None:
            raise NotSent("no Sentinel names a primary")
        return self._pool

    async def _attempt(self, pool: Pool, commands: Sequence[Command], promise: Promise | None) -> list[Any]:
        """One exchange. A failure, also one that only its end in time shows, makes the primary suspect."""
        try:
            replies = await pool.exchange(commands, promise)
        except (RedisError, OSError, asyncio.CancelledError) as error:
            if not (isinstance(error, ResponseError) or pool is not self._pool):
                self._suspect()
            raise
        self._suspected = False
        if asyncio.get_running_loop().time() - self._asked_at > _FRESH_S:
            self._asking.begin()
        return replies

    def _suspect(self) -> None:
        """Asks the Sentinels from now on, until another primary is found, or this one answers after all."""
        self._suspected = True
        self._asking.look()

    async def _ask_all(self) -> None:
        """Asks the Sentinels, and goes where the one that knows most says."""
        self._asked_at = asyncio.get_running_loop().time()
        known = await answers_of_most([self._ask_one(sentinel) for sentinel in self._sentinels])
        if not known:
            return
        epoch, address = max(known)
        # A Sentinel that was cut off is behind the others for a while; only most of them together may know less.
        if epoch >= self._epoch or len(known) * 2 > len(self._sentinels):
            self._epoch = epoch
            self._go_to(address)

    async def _ask_one(self, sentinel: Pool) -> tuple[int, Address] | None:
        """What one Sentinel says: the epoch of its knowledge, and the primary. None: it does not."""
        commands = [
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service),
            ("SENTINEL", "MASTER", self._service),
        ]
        with suppress(RedisError, OSError):
            async with asyncio.timeout(_ANSWER_S):
                place, found = await sentinel.exchange(commands)
            if isinstance(place, list) and isinstance(found, list):
                facts = dict(zip(found[::2], found[1::2], strict=True))
                return int(facts[b"config-epoch"]), (place[0].decode(), int(place[1]))
        return None

    def _go_to(self, address: Address) -> None:
        if address == self._address:
            return
        before, self._address = self._pool, address
        host, port = address
        self._pool = Pool(self._options | {"host": host, "port": port}, self._size, _is_primary)
        self._suspected = False
        if before is not None:
            # Whoever waits for the server of before waits in vain, or for a write that will be thrown away.
            task = asyncio.create_task(before.close(cut=True))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)


def _is_cut_off(reply: Any) -> bool:
    """Whether a server did not do what it was asked because it is a replica by now, or has none."""
    return isinstance(reply, ReadOnlyError) or (
        isinstance(reply, ResponseError) and str(reply).startswith(_NO_REPLICAS)
    )


async def _is_primary(connection: Connection) -> None:
    role = await ask(connection, ("ROLE",))
    if role[0] != b"master":
        raise ConnectionError("the server is no primary")
