"""One stack for all faults, and memory alone with its store. Each case leaves both as it found them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from services.kit.interceptors.identity import metadata_of
from tests.faults.bare_envoy import running_bare_envoy
from tests.faults.rig import CALLS_SHOP, Rig, desk_turn, running_rig, whole
from tests.support.client import Face, face, until
from tests.support.load import ALONE
from tests.support.process import Process, running
from tests.support.proxy import Proxy, running_proxy
from tests.support.valkey import Restartable, restartable_valkey

START_S = 300
"""The first test of a stack waits for its start."""

WARM = 16
"""Turns at once that open connections before anything is counted."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(START_S))


@pytest.fixture(scope="session")
async def running_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """The stack, warm."""
    async with running_rig(tmp_path_factory.mktemp("faults")) as started:
        async with face(started.stack) as warming:
            sessions = await asyncio.gather(*(warming.session("desk") for _ in range(WARM)))
            await asyncio.gather(*(warming.turn(session, CALLS_SHOP) for session in sessions))
            # On a slow machine they were too many for a model that has just started, and its circuit is open.
            await until(lambda: all_whole(warming, WARM), 60)
        await started.settled()
        await started.rest()
        yield started


@pytest.fixture(scope="session")
async def bare(running_stack: Rig, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """A stub of the orchestrator behind an Envoy without guards."""
    async with running_bare_envoy(running_stack, tmp_path_factory.mktemp("bare")) as stub:
        yield stub


async def all_whole(user: Face, turns: int) -> bool:
    """Whether so many turns, one after the other, are whole."""
    for _ in range(turns):
        if not whole(await desk_turn(user)):
            return False
    return True


@pytest.fixture
async def rig(running_stack: Rig) -> AsyncIterator[Rig]:
    """The stack; nothing of a case is left in it afterwards."""
    yield running_stack
    for proxy in running_stack.links.values():
        proxy.resume()
    await running_stack.settled()


@pytest.fixture
async def user(rig: Rig) -> AsyncIterator[Face]:
    """A client of the stack."""
    async with face(rig.stack) as made:
        yield made


@dataclass
class Alone:
    """Memory without the rest of the stack, a proxy between it and its store."""

    memory: Process
    store: Restartable
    to_store: Proxy
    stub: Any
    identity: list[tuple[str, str]]

    @property
    def pid(self) -> int:
        """Of memory."""
        return self.memory.process.pid

    async def create(self, timeout: float = 5.0, request_id: str = "") -> str:
        """One write: the id of a new session."""
        request = memory_pb2.CreateSessionRequest(agent="aura", request_id=request_id)
        reply = await self.stub.CreateSession(request, metadata=self.identity, timeout=timeout)
        return str(reply.session.session_id)

    async def read(self, session_id: str, timeout: float = 5.0) -> None:
        """One read."""
        request = memory_pb2.GetSessionRequest(session_id=session_id)
        await self.stub.GetSession(request, metadata=self.identity, timeout=timeout)


@asynccontextmanager
async def memory_alone(work: Path, **variables: str) -> AsyncIterator[Alone]:
    """Memory with a store of its own, ready, and with the agent that its sessions are with."""
    async with restartable_valkey(work / "valkey") as store:
        await store.start()
        async with (
            running_proxy(store.url) as (proxy, url),
            running("services.memory", work, {"MYRIAD_MEMORY_REDIS_URL": url, **variables}) as memory,
            grpc.aio.insecure_channel(memory.address) as channel,
        ):
            identity = metadata_of(ALONE, None)
            alone = Alone(memory, store, proxy, memory_pb2_grpc.MemoryServiceStub(channel), identity)
            await alone.stub.PutAgent(
                memory_pb2.PutAgentRequest(agent={"name": "aura", "persona": "You help."}),
                metadata=identity,
                timeout=20,
                wait_for_ready=True,
            )
            yield alone


@pytest.fixture(scope="module")
async def running_memory(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Alone]:
    """Memory alone, once for a module."""
    async with memory_alone(tmp_path_factory.mktemp("alone")) as alone:
        yield alone


@pytest.fixture
async def alone(running_memory: Alone) -> AsyncIterator[Alone]:
    """Memory alone, its line to the store whole again afterwards."""
    yield running_memory
    running_memory.to_store.resume()
