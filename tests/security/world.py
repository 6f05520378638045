"""All five services as they are served, in this process, over a real Redis Cluster and a real Milvus."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from redis.asyncio import Redis

from myriad.common.v1 import agent_pb2, tool_pb2
from myriad.common.v1 import common_pb2 as common
from myriad.memory.v1 import memory_pb2 as memory
from myriad.orchestrator.v1 import events_pb2 as events
from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from myriad.toolexec.v1 import toolexec_pb2 as toolexec
from services.kit import acl
from services.kit.app import Kit
from services.kit.call import Principal
from services.kit.clients import INPROC
from services.kit.errors import Internal
from services.kit.interceptors.identity import metadata_of
from services.kit.redis import Redis as StoreClient
from services.kit.status import from_rpc_error
from services.kit.telemetry import open_telemetry
from services.orchestrator.adapters.redis_dead_letters import RedisDeadLetters
from services.orchestrator.domain.run import DeadLetter, Record
from services.vertical.app import build, load_configs
from tests.security.scripted_triton import ScriptedTriton, scripted_triton
from tests.support.http_server import HttpServer, running_http_server
from tests.support.milvus import running_milvus
from tests.support.requests import ROWS, Names, an_agent, ask, method_of, path, refused_item, service_of
from tests.support.rows.row import PAYS, a_paying_agent
from tests.support.valkey import as_user, running_cluster
from tests.support.waiting import until

OF_PROCESSES = b"myriad:{!"
"""Begins the keys in which processes say that they live, and what they have to do: the queues."""


@dataclass(frozen=True)
class Refusal:
    """An error as a caller sees all of it."""

    code: str
    reason: str
    message: str
    fields: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """The services, and what is behind them."""

    kit: Kit
    redis_url: str
    milvus_uri: str
    triton: ScriptedTriton
    crm: HttpServer

    async def ask(
        self, principal: Principal, rpc: MethodDescriptor, request: Message, *, most: int = 100
    ) -> list[Any] | Refusal:
        """The replies of one RPC, of a stream `most`, or how it was refused. Asks with a role that may."""
        service, roles = service_of(rpc), rpc.GetOptions().Extensions[common.access].roles  # type: ignore[index]
        principal = replace(principal, roles=principal.roles | set(roles))
        try:
            channel = self.kit.network.client(service, INPROC).channel
            most = min(most, ROWS[path(rpc)].most)
            replies = await ask(channel, rpc, request, metadata_of(principal, None), most=most)
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error, service)
            return Refusal(error.code().name, told.reason, told.message, told.fields, told.metadata)
        item = refused_item(replies)
        return Refusal(item.code.value, item.reason, item.message, item.fields, item.metadata) if item else replies

    async def told(self, principal: Principal, name: str, request: Message) -> Any:
        """The reply of an RPC (`memory.GetSession`) that must not be refused; the last one of a stream."""
        replies = await self.ask(principal, method_of(name), request)
        assert not isinstance(replies, Refusal), (name, replies)
        return replies[-1]

    async def keys(self) -> dict[str, bytes]:
        """Every key of every node, with what it holds as the store writes it down.

        But for those of processes: they are nobody's, and change by themselves. What sessions owe their budgets is
        waited for: it changes those a moment after a run.
        """
        found: dict[str, bytes] = {}

        async def settled() -> bool:
            found.clear()
            found.update(await self._keys())
            return not any(key.endswith(":outbox") for key in found)

        await until(settled, 20)
        return found

    async def _keys(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for address in self.redis_url.partition("://")[2].split(","):
            host, _, port = address.partition(":")
            async with Redis(host=host, port=int(port), protocol=2) as node:
                names = [name async for name in node.scan_iter(count=1000) if not name.startswith(OF_PROCESSES)]
                pipeline = node.pipeline(transaction=False)
                for name in names:
                    pipeline.dump(name)
                dumped = zip(names, await pipeline.execute(), strict=True)
                found |= {name.decode(): bytes(held) for name, held in dumped if held is not None}
        return found

    async def furnish(self, principal: Principal) -> Names:
        """One of each thing that requests name: the principal's, and nobody else's."""
        names = Names.absent()
        for rpc in ("memory.PutAgent", "retrieval.CreateCollection", "retrieval.UpsertDocuments"):
            await self.told(principal, rpc, ROWS[path(method_of(rpc))].build(names))
        made = await self.told(principal, "memory.CreateSession", memory.CreateSessionRequest(agent=names.agent))
        session = made.session.session_id
        asked = run_pb2.RunTurnRequest(session_id=session, input="What is the secret of this house?")
        last = await self.told(principal, "orchestrator.RunTurn", asked)
        assert last.WhichOneof("event") == "completed", last
        until_told = events.WatchEventsRequest(after="0", types=["run.completed"])

        async def is_told() -> bool:  # it is written a moment later
            return bool((await self.told(principal, "orchestrator.WatchEvents", until_told)).type)

        await until(is_told)
        names = Names(names.agent, names.collection, names.document, session, last.run_id, "", 0)
        held = await self.told(principal, "memory.BeginTurn", ROWS[path(method_of("memory.BeginTurn"))].build(names))
        names = Names(
            *(names.agent, names.collection, names.document, session, last.run_id, held.run_id, held.fencing_token)
        )
        await self._run_slowly(principal, names)
        await self._give_up(principal, names)
        return names

    async def _give_up(self, principal: Principal, names: Names) -> None:
        """Leaves a dead letter."""
        redis = StoreClient(self.redis_url)
        record = Record("What is the secret?", names.agent, 1, (), queue="SIMPLE")
        letter = DeadLetter(
            names.given_up, principal.user, record, 3, Internal("internal error"), time.time_ns() // 1_000_000
        )
        await RedisDeadLetters(redis).put(principal, letter)
        await redis.close()

    async def _run_slowly(self, principal: Principal, names: Names) -> None:
        """Runs a tool in the background to its end."""
        start, get = (ROWS[path(method_of(f"toolexec.{name}"))] for name in ("StartExecution", "GetExecution"))
        await self.told(principal, "toolexec.StartExecution", start.build(names))
        while True:
            found = await self.told(principal, "toolexec.GetExecution", get.build(names))
            if found.execution.state != toolexec.EXECUTION_STATE_RUNNING:
                return
            await asyncio.sleep(0.01)


def somebody(tenant: str = "", user: str = "ann", roles: Sequence[str] = ()) -> Principal:
    """A principal; of a new tenant unless one is given."""
    return Principal(tenant or f"t-{uuid.uuid4().hex[:12]}", user, frozenset(roles))


def tool_agent(name: str, *tools: tool_pb2.Tool) -> agent_pb2.Agent:
    """An agent with these tools, which the scripted model may call."""
    agent = an_agent(name)
    del agent.tools[:]
    agent.tools.extend(tools)
    agent.model.tool_choice = agent_pb2.TOOL_CHOICE_MODEL
    return agent


async def paying(world: World, principal: Principal) -> run_event_pb2.RunEvent:
    """A run that waits for somebody to approve a payment: its last event, which asks."""
    await world.told(principal, "memory.PutAgent", memory.PutAgentRequest(agent=a_paying_agent("pays")))
    made = await world.told(principal, "memory.CreateSession", memory.CreateSessionRequest(agent="pays"))
    asked = run_pb2.RunTurnRequest(session_id=made.session.session_id, input=PAYS)
    event: run_event_pb2.RunEvent = await world.told(principal, "orchestrator.RunTurn", asked)
    assert event.approval_required.approval_token, event
    return event


@asynccontextmanager
async def running_world(work: Path) -> AsyncIterator[World]:
    """Starts all of it."""
    async with AsyncExitStack() as stack:
        redis_url, milvus_uri = await asyncio.gather(
            stack.enter_async_context(running_cluster(work / "valkey")),
            stack.enter_async_context(running_milvus(work / "milvus")),
        )
        triton_address, triton = await stack.enter_async_context(scripted_triton())
        crm = await stack.enter_async_context(running_http_server())
        environ = {f"MYRIAD_{row.user.upper()}_REDIS_URL": as_user(redis_url, row.user) for row in acl.ROWS}
        environ |= {f"MYRIAD_{each}_TRITON_ADDRESS": triton_address for each in ("NLU", "ORCHESTRATOR", "RETRIEVAL")}
        environ |= {
            "MYRIAD_ORCHESTRATOR_MODELS": "sim_llm",
            "MYRIAD_RETRIEVAL_MILVUS_URI": milvus_uri,
            "MYRIAD_TOOLEXEC_ENDPOINTS": f"crm={crm.url()}",
            "MYRIAD_TOOLEXEC_CALLBACK_SECRETS": "a secret of the world that is long enough",
            "MYRIAD_NLU_MODELS_DIR": str(work),
        }
        kit = Kit(open_telemetry("vertical", "", 0.0), None)
        for app in await build(load_configs(environ), kit):
            kit.registry(app)
            for closer in app.closers:
                stack.push_async_callback(closer)
        stack.push_async_callback(kit.network.close)
        yield World(kit, redis_url, milvus_uri, triton, crm)
