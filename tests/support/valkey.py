"""Valkey servers for tests: one, or a cluster of three primaries, started by the launcher's own engine.

Each has the users of the services, whom `as_user` makes a URL of. Who is no user may do everything: tests do.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.dev.engines.valkey import launch
from services.kit import redis as kit
from services.kit.acl import USERS, acl_file
from tests.support.ports import free_port

_START_S = 10.0
_SLOTS = 16384

PATIENCE_S = 20.0
"""Longest time of a call of a test that is not about how long calls take."""

PASSWORDS = {user: f"word-of-{user}" for user in USERS}


def as_user(url: str, user: str) -> str:
    """The same store, for a user of it."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{user}:{PASSWORDS[user]}@{rest}"


class UserRedis(kit.Redis):
    """A client that may do what a service may."""

    def __init__(self, url: str, user: str) -> None:
        super().__init__(as_user(url, user), timeout=PATIENCE_S)
        self.root = kit.Redis(url, timeout=PATIENCE_S)
        """May do everything: for what a test does to the store, or wants to know of it."""

    async def close(self) -> None:
        await super().close()
        await self.root.close()

    async def _load(self) -> None:
        """Another loads the functions, whenever a test has thrown them away."""
        await self.root.check()


@asynccontextmanager
async def running_valkey(work: Path, *, port: int = 0, extra: Sequence[str] = ()) -> AsyncIterator[str]:
    """One server; its URL.

    Args:
        work: Folder for its data and its output; made when it is not there.
        port: Where to listen; 0: a free one.
        extra: More arguments.
    """
    port = port or free_port()
    process = await start_valkey(work, port, extra)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        await stop(process)


@asynccontextmanager
async def running_cluster(work: Path, *, primaries: int = 3, announced: int = 0) -> AsyncIterator[str]:
    """A cluster without replicas; its URL.

    Args:
        work: Folder for the data and the output.
        primaries: How many servers.
        announced: Port that clients are told to use, when it is not the server's own; for a single primary.
    """
    async with AsyncExitStack() as stack:
        ports = {free_port(): free_port() for _ in range(primaries)}
        extra = ("--cluster-enabled", "yes", "--cluster-announce-port", str(announced), "--cluster-port")
        processes = await asyncio.gather(
            *(start_valkey(work / str(port), port, (*extra, str(bus))) for port, bus in ports.items())
        )
        for process in processes:
            stack.push_async_callback(stop, process)
        await _join(ports)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)


@asynccontextmanager
async def running_sentinel(work: Path) -> AsyncIterator[str]:
    """A primary and its replica under one Sentinel; their URL."""
    async with AsyncExitStack() as stack:
        primary, replica, sentinel = free_port(), free_port(), free_port()
        quick = ("--repl-diskless-sync-delay", "0")
        for port, extra in ((primary, quick), (replica, (*quick, "--replicaof", f"127.0.0.1 {primary}"))):
            process = await start_valkey(work / str(port), port, extra)
            stack.push_async_callback(stop, process)
        async with Redis(port=primary, protocol=2) as client, asyncio.timeout(_START_S):
            while not (await client.info("replication")).get("slave0", {}).get("offset"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        process = await _start_sentinel(work, sentinel, primary)
        stack.push_async_callback(stop, process)
        yield f"redis+sentinel://127.0.0.1:{sentinel}/main"


async def _start_sentinel(work: Path, port: int, primary: int) -> asyncio.subprocess.Process:
    file = work / "sentinel.conf"
    lines = (f"port {port}", "bind 127.0.0.1", f"dir {work}", f"sentinel monitor main 127.0.0.1 {primary} 1")
    await asyncio.to_thread(file.write_text, "\n".join(lines) + "\n")
    argv = (launch(python=None, work=work, port=port).argv[0], str(file), "--sentinel")
    with await asyncio.to_thread(_open_output, work) as output:
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output)
    async with Redis(port=port, protocol=2) as client, asyncio.timeout(_START_S):
        while not await _knows_replica(client):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return process


async def _knows_replica(sentinel: Any) -> bool:
    try:
        return bool(await sentinel.execute_command("SENTINEL REPLICAS", "main"))
    except (RedisError, OSError):
        return False


class Restartable:
    """A server that comes and goes on one port, with its data."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._port = free_port()
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"redis://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._process = await start_valkey(self._work, self._port)

    async def stop(self, *, orderly: bool = True) -> None:
        if self._process is not None:
            await stop(self._process, orderly=orderly)


@asynccontextmanager
async def restartable_valkey(work: Path) -> AsyncIterator[Restartable]:
    """A server that the test starts and stops as it likes."""
    server = Restartable(work)
    try:
        yield server
    finally:
        await server.stop(orderly=False)


async def start_valkey(work: Path, port: int, extra: Sequence[str] = ()) -> asyncio.subprocess.Process:
    """A server that answers. The caller stops it."""
    output = await asyncio.to_thread(_open_output, work)
    users = work / "users.acl"
    await asyncio.to_thread(users.write_text, with_users())
    argv = (*launch(python=None, work=work, port=port, users=users).argv, *extra)
    with output:
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output)
    try:
        async with asyncio.timeout(_START_S):
            while not await _answers(port):
                if process.returncode is not None:
                    raise RuntimeError(f"valkey-server ended: see {output.name}")
                await asyncio.sleep(0.02)
    except BaseException:
        await stop(process)
        raise
    return process


def with_users() -> str:
    """What each user may do; who is none, everything."""
    nobody, *users = acl_file(PASSWORDS).splitlines()
    return "\n".join([nobody.replace("-@all +ping", "~* &* +@all"), *users, ""])


async def stop(process: asyncio.subprocess.Process, *, orderly: bool = False) -> None:
    """Kills a server; orderly: lets it write down what it has first."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM if orderly else signal.SIGKILL)
    await process.wait()


async def _join(buses: Mapping[int, int]) -> None:
    """Makes one cluster of servers: their ports, with those where they listen for each other."""
    ports = list(buses)
    async with AsyncExitStack() as stack:
        clients: list[Any] = [await stack.enter_async_context(Redis(port=port, protocol=2)) for port in ports]
        bounds = [_SLOTS * i // len(ports) for i in range(len(ports) + 1)]
        for epoch, client in enumerate(clients, start=1):
            await client.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
            await client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[epoch - 1], bounds[epoch] - 1)
        for port in ports[1:]:
            await clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port, buses[port])
        async with asyncio.timeout(_START_S):
            while not all([await _agrees(client, len(ports)) for client in clients]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def _agrees(client: Any, nodes: int) -> bool:
    info = await client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes)


def _open_output(work: Path) -> BinaryIO:
    work.mkdir(parents=True, exist_ok=True)
    return (work / "valkey.log").open("ab")


async def _answers(port: int) -> bool:
    client = Redis(port=port, protocol=2)
    try:
        return bool(await client.echo("ready"))
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()
