"""Connections to the primaries of a cluster, which follows the slots as they move.

redis-py's own cluster client is not used. It sends each command of a pipeline by itself, and so cannot wait for
replicas on the connection of a write; it asks any one node how the cluster looks, which may be one that is cut off.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from services.kit.redis_asking import Asking, answers_of_most
from services.kit.redis_pool import Command, NotSent, Pool, Promise

Address = tuple[str, int]

_ANSWER_S = 0.5
"""So long a node has to say how the cluster looks."""

_PAUSE_S = 0.1
_ROUNDS = 8
"""So often a command that surely was not done is sent on, after a pause where only time helps."""

_KEY_AFTER = {"FCALL": 3, "FCALL_RO": 3, "EVAL": 3, "EVAL_RO": 3, "OBJECT": 2, "XGROUP": 2, "XINFO": 2}
"""Where the first key of a command stands, when it is not its first argument."""


def slot_of(command: Command) -> int:
    """The slot of a command's first key. One without a key goes where slot 0 is."""
    name = str(command[0])
    if name in {"XREAD", "XREADGROUP"}:
        at = command.index("STREAMS") + 1
    else:
        at = _KEY_AFTER.get(name, 1)
    if at >= len(command):
        return 0
    key = command[at]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class ClusterConnections:
    """Connections to the primaries of a cluster: the commands for one of them go together, in one round trip."""

    def __init__(self, seeds: Sequence[Address], options: dict[str, Any], size: int) -> None:
        """Opens nothing yet.

        Args:
            seeds: Some nodes; the others are learned from them.
            options: How to connect to a node.
            size: How many calls may be at work at once with one node.
        """
        self._seeds, self._options, self._size = seeds, options, size
        self._pools: dict[Address, Pool] = {}
        self._owners: dict[int, Address] = {}
        self._rank = (False, 0)
        self._suspects: set[Address] = set()
        self._asking = Asking(self._ask_all, lambda: not self._suspects, _PAUSE_S)
        self._retired: set[asyncio.Task[None]] = set()

    async def exchange(self, commands: Sequence[Command], promise: Promise | None = None) -> list[Any]:
        """As `Connections.exchange`. What a node surely did not do is sent to the one that owns the slot by now."""
        if not self._owners:
            await self._asking.ask()
        slots = [slot_of(command) for command in commands]
        replies: list[Any] = [None] * len(commands)
        due = {i: self._owner(slot) for i, slot in enumerate(slots)}
        asking: set[int] = set()
        for round_ in range(_ROUNDS):
            await self._send(commands, due, asking, promise, replies)
            moved = {i for i in due if isinstance(replies[i], MovedError)}
            asking = {i for i in due if isinstance(replies[i], AskError)} - moved
            late = {i for i in due if isinstance(replies[i], ClusterDownError | TryAgainError | NotSent)}
            if not (moved or asking or late):
                break
            if moved or late:
                await self._asking.ask()
            before, due = due, {}
            for i in moved | asking:
                due[i] = _named(replies[i], before[i])
            for i in late:
                if not isinstance(replies[i], NotSent) or self._owner(slots[i]) != before[i]:
                    due[i] = self._owner(slots[i])
            if round_ and due:
                await asyncio.sleep(_PAUSE_S)
        return replies

    async def everywhere(self, command: Command) -> list[Any]:
        """As `Connections.everywhere`."""
        if not self._owners:
            await self._asking.ask()
        primaries = sorted(set(self._owners.values()))
        if not primaries:
            raise NotSent("no node of the cluster answers")
        found = await asyncio.gather(*(self._attempt(at, [command], None) for at in primaries))
        for (reply,) in found:
            if isinstance(reply, BaseException):
                raise reply
        return [reply for (reply,) in found]

    async def place(self, attempt: int) -> dict[str, Any]:
        """As `Connections.place`: every node hears what is published to any."""
        if attempt or not self._owners:
            await self._asking.ask()
        nodes = sorted(set(self._owners.values())) or self._seeds
        host, port = nodes[attempt % len(nodes)]
        return self._options | {"host": host, "port": port}

    async def close(self) -> None:
        """As `Connections.close`."""
        await self._asking.close()
        await asyncio.gather(*self._retired, return_exceptions=True)
        for pool in self._pools.values():
            await pool.close()

    def _owner(self, slot: int) -> Address | None:
        return self._owners.get(slot)

    def _pool(self, address: Address) -> Pool:
        pool = self._pools.get(address)
        if pool is None:
            host, port = address
            pool = self._pools[address] = Pool(self._options | {"host": host, "port": port}, self._size)
        return pool

    async def _send(
        self,
        commands: Sequence[Command],
        due: Mapping[int, Address | None],
        asking: set[int],
        promise: Promise | None,
        replies: list[Any],
    ) -> None:
        """Sends each due command to its node, and puts what comes of it into its place."""
        groups: dict[Address | None, list[int]] = {}
        for i, address in due.items():
            groups.setdefault(address, []).append(i)

        async def send(address: Address | None, places: list[int]) -> None:
            sent: list[Command] = []
            for i in places:
                sent += [("ASKING",), commands[i]] if i in asking else [commands[i]]
            found = iter(await self._attempt(address, sent, promise))
            for i in places:
                if i in asking:
                    next(found)
                replies[i] = next(found)

        if len(groups) == 1:
            await send(*groups.popitem())
        else:
            await asyncio.gather(*(send(*group) for group in groups.items()))

    async def _attempt(
        self, address: Address | None, commands: Sequence[Command], promise: Promise | None
    ) -> list[Any]:
        """One exchange with a node; when it fails, its failure in each place."""
        if address is None:
            return [NotSent("no node of the cluster has the slot")] * len(commands)
        try:
            replies = await self._pool(address).exchange(commands, promise)
        except (RedisError, OSError) as error:
            self._suspect(address)
            return [error] * len(commands)
        except asyncio.CancelledError:
            self._suspect(address)
            raise
        self._suspects.discard(address)
        return replies

    def _suspect(self, address: Address) -> None:
        """Asks the nodes from now on, until the slots of this one are another's, or it is well after all."""
        self._suspects.add(address)
        self._asking.look()

    async def _ask_all(self) -> None:
        """Asks the nodes, and believes the one that knows most."""
        nodes = {*self._seeds, *self._owners.values()}
        known = await answers_of_most([self._ask_one(node) for node in nodes])
        if not known:
            return
        rank, host, ranges = max(known, key=lambda answer: answer[0])
        # A node that was cut off is behind the others for a while; only most of them together may know less.
        if rank >= self._rank or len(known) * 2 > len(nodes):
            self._rank = rank
            self._learn(_read_slots(ranges, host))

    async def _ask_one(self, address: Address) -> tuple[tuple[bool, int], str, Sequence[Any]] | None:
        """What one node says: whether it sees a whole cluster and the epoch of that, its host, who owns which slots."""
        with suppress(RedisError, OSError):
            async with asyncio.timeout(_ANSWER_S):
                info, ranges = await self._pool(address).exchange([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
            if isinstance(info, bytes) and isinstance(ranges, list):
                facts = dict(line.split(":", 1) for line in info.decode().split())
                rank = (facts["cluster_state"] == "ok", int(facts["cluster_current_epoch"]))
                if rank[0]:
                    self._suspects.discard(address)
                return rank, address[0], ranges
        return None

    def _learn(self, owners: dict[int, Address]) -> None:
        self._owners = owners
        primaries = set(owners.values())
        for address in set(self._pools) - primaries - set(self._seeds):
            self._retire(address)
        for address in self._suspects - primaries:
            self._suspects.discard(address)
            if address in self._pools:
                self._retire(address)

    def _retire(self, address: Address) -> None:
        """Leaves a node. Whoever waits for it waits in vain, or for a write that will be thrown away."""
        task = asyncio.create_task(self._pools.pop(address).close(cut=True))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


def _read_slots(ranges: Sequence[Any], asked: str) -> dict[int, Address]:
    """Owners from a reply to CLUSTER SLOTS; a node that does not know its own host has the one that was asked."""
    owners: dict[int, Address] = {}
    for first, last, (host, port, *_), *_ in ranges:
        address = ((host or b"").decode() or asked, int(port))
        owners.update(dict.fromkeys(range(first, min(last + 1, REDIS_CLUSTER_HASH_SLOTS)), address))
    return owners


def _named(redirect: AskError, asked: Address | None) -> Address:
    """Where a redirection leads; without a host, to the host that was asked."""
    host, port = redirect.node_addr
    return host or (asked[0] if asked else ""), port
