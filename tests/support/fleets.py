"""Valkey servers that fail over, each on a machine of its own (`network.py`): under Sentinels, and as a cluster."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.dev.engines.valkey import launch
from tests.support.network import Machine

PORT, SENTINEL_PORT = 6379, 26379
CLUSTER_PORTS = (7001, 7002, 7003)
SERVICE = "main"
DOWN_AFTER_MS = 1200
FAILOVER_MS = 2500
"""Twice as long after one failover Sentinels begin no other."""

LAG_S = 2
"""A primary that has not heard of a replica for so long takes no more writes."""

NODE_TIMEOUT_MS = 1200
_START_S = 20.0
_WHOLE_S = 60.0
_SLOTS = 16384
_OF_ALL = ("--bind", "0.0.0.0", "--protected-mode", "no", "--repl-diskless-sync-delay", "0")
_OF_TRIO = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", str(LAG_S), "--repl-ping-replica-period", "1")
_OF_CLUSTER = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
    *("--cluster-allow-replica-migration", "no", "--repl-ping-replica-period", "1"),
)


class Server:
    """One server: started, killed, started again with its data."""

    def __init__(self, machine: Machine, port: int, work: Path) -> None:
        self.machine, self.port, self._work = machine, port, work
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"{self.machine.address}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *extra: str) -> None:
        self._work.mkdir(parents=True, exist_ok=True)
        argv = launch(python=None, work=self._work, port=self.port).argv
        self._process = self.machine.spawn((*argv, *_OF_ALL, *extra), self._work / "valkey.log")

    def watch(self, primary: str) -> None:
        """Starts it as a Sentinel."""
        self._work.mkdir(parents=True, exist_ok=True)
        file = self._work / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 0.0.0.0\nprotected-mode no\ndir {self._work}\n"
            f"sentinel monitor {SERVICE} {primary} {PORT} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} {FAILOVER_MS}\n"
        )
        argv = (launch(python=None, work=self._work, port=self.port).argv[0], str(file), "--sentinel")
        self._process = self.machine.spawn(argv, self._work / "sentinel.log")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def ask(self, *command: str | int) -> Any:
        """A reply, as redis-py reads it; None when it does not answer."""
        with suppress(RedisError, OSError):
            client = Redis(host=self.machine.address, port=self.port, protocol=2, socket_timeout=0.5, retry=None)
            async with client:
                return await client.execute_command(*command)
        return None

    async def info(self, section: str) -> dict[str, Any]:
        """A section of INFO; empty when it does not answer."""
        return await self.ask("INFO", section) or {}


class Trio:
    """A primary, two replicas, and a Sentinel beside each. `client` is a machine of the majority's side."""

    def __init__(self, made: Sequence[Machine], work: Path) -> None:
        *three, self.client = made
        self.servers = [Server(machine, PORT, work / f"server{i}") for i, machine in enumerate(three)]
        self.sentinels = [Server(machine, SENTINEL_PORT, work / f"sentinel{i}") for i, machine in enumerate(three)]
        self.url = "redis+sentinel://" + ",".join(each.place for each in self.sentinels) + f"/{SERVICE}"

    def start(self) -> None:
        first, *others = self.servers
        first.start(*_OF_TRIO)
        for each in others:
            each.start(*_OF_TRIO, "--replicaof", f"{first.machine.address} {PORT}")
        self.client.run(lambda: eventually(lambda: self._serves(first)))
        for each in self.sentinels:
            each.watch(first.machine.address)
        self.client.run(lambda: eventually(self.settled))

    def stop(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.kill()

    def slots_on(self, machine: Machine) -> range:
        """What a machine has the primary of: without a cluster, everything."""
        return range(_SLOTS)

    async def primary(self) -> Server:
        """Who is the primary, as most Sentinels say."""
        said = [await each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE) for each in self.sentinels]
        places = [each[0].decode() for each in said if each]
        most = max(places, key=places.count)
        return next(each for each in self.servers if each.machine.address == most)

    async def whole(self) -> None:
        """Starts those that were killed, as replicas of the primary, and waits until all is as at first."""
        primary = await self.primary()
        for each in self.servers:
            if not each.runs:
                each.start(*_OF_TRIO, "--replicaof", f"{primary.machine.address} {PORT}")
        await eventually(self.settled, _WHOLE_S)

    async def settled(self) -> bool:
        """Whether one is the primary of all others, and every Sentinel knows all of them."""
        for each in self.sentinels:
            facts = _pairs(await each.ask("SENTINEL", "MASTER", SERVICE))
            if (facts.get("num-other-sentinels"), facts.get("num-slaves")) != ("2", "2"):
                return False
            if facts["flags"] != "master":
                return False
        return await self._serves(await self.primary())

    async def _serves(self, primary: Server) -> bool:
        found = await primary.info("replication")
        return found.get("role") == "master" and found.get("min_slaves_good_slaves") == 2 and _online(found) == 2


class Cluster:
    """Three primaries, and two replicas of each on the other machines: when one goes, all have a replica still.

    `client` is a machine of the majority's side.
    """

    def __init__(self, made: Sequence[Machine], work: Path) -> None:
        *machines, self.client = made
        self.servers = [
            Server(machine, port, work / f"{port}-{i}") for port in CLUSTER_PORTS for i, machine in enumerate(machines)
        ]
        self.url = "redis+cluster://" + ",".join(each.place for each in self.servers[:3])

    def start(self) -> None:
        for each in self.servers:
            each.start(*_OF_CLUSTER)
        self.client.run(self._join)

    def stop(self) -> None:
        for each in self.servers:
            each.kill()

    async def whole(self) -> None:
        """Starts those that were killed, and waits until all is as at first: one primary a machine."""
        for each in self.servers:
            if not each.runs:
                each.start(*_OF_CLUSTER)
        await eventually(self.settled, _WHOLE_S)
        for each in self.servers[:3]:
            await eventually(lambda each=each: _leads(each), _WHOLE_S)
        await eventually(self.settled, _WHOLE_S)

    async def settled(self) -> bool:
        """Whether every node sees a whole cluster, and each primary has its replica."""
        for each in self.servers:
            state = _facts(await each.ask("CLUSTER INFO"))
            if (state.get("cluster_state"), state.get("cluster_known_nodes")) != ("ok", "9"):
                return False
        found = [await each.info("replication") for each in self.servers]
        if sorted(each.get("role", "") for each in found) != ["master"] * 3 + ["slave"] * 6:
            return False
        nodes = await self.servers[0].ask("CLUSTER NODES")
        if any("fail" in node["flags"] for node in nodes.values()):
            return False
        return all(_online(each) == 2 for each in found if each["role"] == "master")

    def slots_on(self, machine: Machine) -> range:
        """What a machine has the primary of, when all is as at first."""
        (i,) = (i for i, each in enumerate(self.servers[:3]) if each.machine is machine)
        return range(_SLOTS * i // 3, _SLOTS * (i + 1) // 3)

    async def heir(self) -> Server | None:
        """Who took over from one of the first primaries. None: nobody has."""
        found = [each for each in self.servers[3:] if (await each.info("replication")).get("role") == "master"]
        return found[0] if found else None

    async def _join(self) -> None:
        await eventually(self._all_answer)
        for i, each in enumerate(self.servers):
            await each.ask("CLUSTER SET-CONFIG-EPOCH", i + 1)
            if i < 3:
                slots = self.slots_on(each.machine)
                await each.ask("CLUSTER ADDSLOTSRANGE", slots[0], slots[-1])
            if i:
                await self.servers[0].ask("CLUSTER MEET", each.machine.address, each.port)
        await eventually(self._all_known)
        for i, replica in enumerate(self.servers[3:]):
            primary = self.servers[(i + 1 + i // 3) % 3]
            name = (await primary.ask("CLUSTER MYID")).decode()
            await eventually(lambda replica=replica, name=name: _follows(replica, name))
        await eventually(self.settled)

    async def _all_answer(self) -> bool:
        return all([await each.info("replication") for each in self.servers])

    async def _all_known(self) -> bool:
        found = [_facts(await each.ask("CLUSTER INFO")) for each in self.servers]
        return all(each.get("cluster_known_nodes") == "9" and each["cluster_state"] == "ok" for each in found)


async def eventually(is_so: Callable[[], Awaitable[bool]], seconds: float = _START_S) -> None:
    """Returns when it is so.

    Raises:
        TimeoutError: it is not, so many seconds later.
    """
    async with asyncio.timeout(seconds):
        while not await is_so():  # noqa: ASYNC110 - other processes make it so
            await asyncio.sleep(0.05)


@contextmanager
def running(fleet: Any) -> Iterator[Any]:
    """A fleet, started; stopped in the end."""
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()


async def _leads(server: Server) -> bool:
    """Makes a server primary of its part, in good order."""
    if (await server.info("replication")).get("role") == "master":
        return True
    await server.ask("CLUSTER FAILOVER")
    await asyncio.sleep(0.5)
    return False


async def _follows(replica: Server, name: str) -> bool:
    return bool(await replica.ask("CLUSTER REPLICATE", name))


def _online(replication: dict[str, Any]) -> int:
    replicas = [value for name, value in replication.items() if name.startswith("slave") and isinstance(value, dict)]
    return sum(each.get("state") == "online" and each["offset"] > 0 for each in replicas)


def _pairs(reply: Any) -> dict[str, str]:
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=True)} if reply else {}


def _facts(reply: Any) -> dict[str, str]:
    return _pairs(reply) if isinstance(reply, dict) else {}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
