"""toolexec as it is served, beside a memory that knows one agent, in this process and in others."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.json_format import ParseDict

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.app import App, Kit
from services.kit.call import Principal, work_as
from services.kit.clients import INPROC, Client
from services.kit.errors import Unavailable
from services.kit.grpc_server import grpc_server
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.telemetry import open_telemetry
from services.toolexec.app import build
from services.toolexec.config import Config
from services.toolexec.domain import CallKey
from tests.support.ports import free_port
from tests.support.process import Process, running


class Memory(memory_pb2_grpc.MemoryServiceServicer):
    """One agent, of every tenant."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._agent = ParseDict(
            {"name": "aura", "revision": 1, "persona": "p", "tools": list(tools)}, agent_pb2.Agent()
        )

    async def GetAgent(self, request: memory_pb2.GetAgentRequest, context: object) -> memory_pb2.GetAgentResponse:
        return memory_pb2.GetAgentResponse(agent=self._agent)


class Replica:
    """A replica, as its callers reach it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = toolexec_pb2_grpc.ToolExecServiceStub(client.channel)

    async def ready(self) -> None:
        """Returns when a replica that was started answers."""
        async with asyncio.timeout(15):
            while True:
                try:
                    return await self.check("https://192.88.98.1/")
                except Unavailable:
                    await asyncio.sleep(0.05)

    async def execute(self, key: CallKey, arguments: str = "{}", approval: str = "") -> toolexec_pb2.ExecuteResponse:
        """Runs a tool."""
        return await self._client.unary(self._stub.Execute, _request(key, arguments, approval), timeout=5)

    async def start(
        self, key: CallKey, arguments: str = "{}", tool_call_id: str = "c1", approval: str = ""
    ) -> toolexec_pb2.Execution:
        """Begins a tool in the background."""
        call = _request(key, arguments, approval)
        request = toolexec_pb2.StartExecutionRequest(call=call, tool_call_id=tool_call_id)
        return (await self._client.unary(self._stub.StartExecution, request, timeout=5)).execution

    async def get(self, key: CallKey) -> toolexec_pb2.Execution:
        """How far it is."""
        request = toolexec_pb2.GetExecutionRequest(
            run_id=key.run_id, tool=key.tool, idempotency_key=key.idempotency_key
        )
        return (await self._client.unary(self._stub.GetExecution, request, timeout=5)).execution

    async def cancel(self, key: CallKey) -> None:
        """Stops it."""
        request = toolexec_pb2.CancelExecutionRequest(
            run_id=key.run_id, tool=key.tool, idempotency_key=key.idempotency_key
        )
        await self._client.unary(self._stub.CancelExecution, request, timeout=5)

    async def check(self, url: str) -> None:
        """Whether an address may be called back."""
        request = toolexec_pb2.CheckCallbackRequest(callback_url=url)
        await self._client.unary(self._stub.CheckCallback, request, timeout=5)


def _request(key: CallKey, arguments: str, approval: str) -> toolexec_pb2.ExecuteRequest:
    return toolexec_pb2.ExecuteRequest(
        agent=agent_pb2.AgentRef(name="aura"),
        tool=key.tool,
        arguments_json=arguments,
        run_id=key.run_id,
        idempotency_key=key.idempotency_key,
        approval=approval,
    )


@dataclass
class Stack:
    """Replicas of toolexec around one store, and a principal of the test's own."""

    redis: Redis
    redis_url: str
    kit: Kit
    memory_address: str
    ann: Principal
    settings: Mapping[str, str]

    @asynccontextmanager
    async def here(self) -> AsyncIterator[Replica]:
        """A replica in this process."""
        kit = Kit(open_telemetry("test", "", 0.0), None)
        settings = {name.removeprefix("MYRIAD_TOOLEXEC_"): value for name, value in self.settings.items()}
        async with AsyncExitStack() as stack:
            config = Config(
                memory_address=self.memory_address,
                redis_url=self.redis_url,
                endpoints=dict([settings["ENDPOINTS"].split("=", 1)]),
                idle_s=float(settings["IDLE_S"]),
                callback_secrets=(settings["CALLBACK_SECRETS"],),
                callback_exceptions=tuple(filter(None, settings.get("CALLBACK_EXCEPTIONS", "").split(","))),
                callback_attempts=3,
                callback_delay_s=0.1,
                callback_timeout_s=0.5,
            )
            app = await build(config, kit)
            for closer in app.closers:
                stack.push_async_callback(closer)
            kit.registry(app)
            stack.push_async_callback(kit.network.close)
            yield Replica(kit.network.client("toolexec", INPROC))

    @asynccontextmanager
    async def elsewhere(self, work: Path) -> AsyncIterator[tuple[Replica, Process]]:
        """A replica in a process of its own, which the test may kill."""
        variables = {
            "MYRIAD_TOOLEXEC_MEMORY_ADDRESS": self.memory_address,
            "MYRIAD_TOOLEXEC_REDIS_URL": self.redis_url,
        }
        async with running("services.toolexec", work, variables | self.settings) as process:
            yield Replica(self.kit.network.client("toolexec", process.address)), process

    async def park(self, run: int, tool_call_id: str) -> None:
        """Leaves run n of ann's session s1 as the orchestrator does that waits for a tool."""
        keys = SessionKeys(self.ann, "s1")
        await self.redis.execute("HSET", keys.session, "owner", self.ann.user, "runs", run, "current", run)
        await self.redis.execute("HSET", keys.work, "record", "x", "waiting", f"tool:{tool_call_id}", "wake", "SIMPLE")

    async def told(self) -> dict[str, Any] | None:
        """What the run was given."""
        found = await self.redis.execute("HGET", SessionKeys(self.ann, "s1").work, "response")
        return None if found is None else orjson.loads(found)


@asynccontextmanager
async def a_stack(
    redis_url: str, tools: Sequence[Mapping[str, Any]], crm_url: str, **settings: str
) -> AsyncIterator[Stack]:
    """A store, a memory and the settings of replicas; `settings` are variables of toolexec without their prefix."""
    kit = Kit(open_telemetry("test", "", 0.0), None)
    add = memory_pb2_grpc.add_MemoryServiceServicer_to_server
    registry = kit.registry(App("memory", lambda server: add(Memory(tools), server)))
    server, _ = grpc_server([registry])
    address = f"127.0.0.1:{free_port()}"
    server.add_insecure_port(address)
    await server.start()
    redis = Redis(redis_url)
    ann = Principal("t" + secrets.token_hex(4), "ann")
    work_as(ann, name="test", timeout=60)
    given = {
        "ENDPOINTS": f"crm={crm_url}",
        "IDLE_S": "1.0",
        "CALLBACK_SECRETS": "a secret of the test that is long enough",
    }
    variables = {f"MYRIAD_TOOLEXEC_{name}": value for name, value in (given | settings).items()}
    try:
        yield Stack(redis, redis_url, kit, address, ann, variables)
    finally:
        await redis.close()
        await kit.network.close()
        await server.stop(0)
