"""Memory without the rest of a stack, in front of a store of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from services.kit.interceptors.identity import metadata_of
from tests.support.load import ALONE
from tests.support.process import Process, running
from tests.support.proxy import Proxy, running_proxy
from tests.support.valkey import Restartable, restartable_valkey


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
