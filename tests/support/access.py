"""A stack that asks who calls: principals with tokens, and what they own in it."""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2 as memory
from myriad.memory.v1 import turn_pb2
from myriad.orchestrator.v1 import run_pb2
from services.dev import identity
from services.dev.state import Folder, StackState
from services.dev.users import operator_url
from services.kit.call import Principal
from services.kit.errors import Internal
from services.kit.interceptors.identity import MESH_TOKEN, metadata_of
from services.kit.redis import Redis
from services.kit.status import from_rpc_error
from services.orchestrator.adapters.redis_dead_letters import RedisDeadLetters
from services.orchestrator.domain.run import DeadLetter, Record
from tests.support.requests import ROWS, Names, an_agent, ask, method_of, path, refused_item, service_of
from tests.support.rows.row import PAYS, a_paying_agent
from tests.support.waiting import until

CLERK = "clerk"
"""The role that the tool `file` of every agent here asks for."""

TTL_S = 600


def somebody(tenant: str = "", roles: Iterable[str] = ()) -> Principal:
    """A user that nobody was before; of a tenant of their own if none is named."""
    return Principal(tenant or f"tenant-{uuid4().hex[:12]}", f"user-{uuid4().hex[:12]}", frozenset(roles))


@dataclass
class Guarded:
    """A stack with all services at one address, which is that of every service."""

    folder: Folder
    edge: grpc.aio.Channel
    inside: grpc.aio.Channel
    store: str
    """URL of the store."""

    def token(self, principal: Principal, ttl_s: int = TTL_S) -> list[tuple[str, str]]:
        """What a client sends to Envoy."""
        return [("authorization", f"Bearer {identity.mint(self.folder.keys, principal, ttl_s)}")]

    def mesh(self, principal: Principal | None) -> list[tuple[str, str]]:
        """What a service sends to another."""
        token = (self.folder.keys / "mesh.token").read_text().strip()
        return metadata_of(principal, token) if principal else [(MESH_TOKEN, token)]

    async def answer(
        self, channel: grpc.aio.Channel, method: MethodDescriptor, request: Message, metadata: list[tuple[str, str]]
    ) -> str:
        """The name of the code that a call is answered with; of one that is served, the code and the reply's text."""
        try:
            replies = await self.replies(channel, method, request, metadata)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {from_rpc_error(error, service_of(method)).reason}"
        item = refused_item(replies)
        if item is not None:
            return f"{item.code.value} {item.reason}"
        return "OK " + " ".join(str(reply) for reply in replies)

    async def replies(
        self, channel: grpc.aio.Channel, method: MethodDescriptor, request: Message, metadata: list[tuple[str, str]]
    ) -> list[Any]:
        """The replies of a call that is served.

        Raises:
            grpc.aio.AioRpcError: it was refused.
        """
        return await ask(channel, method, request, metadata, most=ROWS[path(method)].most)

    async def told(self, principal: Principal, name: str, request: Message) -> Any:
        """The reply to a call from inside, of an RPC as `memory.GetSession`."""
        return (await ask(self.inside, method_of(name), request, self.mesh(principal)))[0]

    async def furnish(self, owner: Principal, method: MethodDescriptor) -> Names:
        """Makes what a request of `method` names, so that the owner's call of it finds it all and is served."""
        names = Names.absent()
        service = service_of(method)
        if service == "retrieval":
            await self._tell(owner, "retrieval.CreateCollection", names)
            await self._tell(owner, "retrieval.UpsertDocuments", names)
            return names
        await self._put_agent(owner, names.agent)
        session = (await self._tell(owner, "memory.CreateSession", names)).session.session_id
        names = replace(names, session=session)
        if method.name == "ResumeTurn":  # of a run whose owner is gone
            gone = turn_pb2.BeginTurnRequest(session_id=session, lease=Duration(nanos=1_000_000), record=b"asked")
            await self.told(owner, "memory.BeginTurn", gone)
            return names
        begun = await self._tell(owner, "memory.BeginTurn", names)
        names = replace(names, run=begun.run_id, held_run=begun.run_id, fencing_token=begun.fencing_token)
        if "fencing_token" not in method.input_type.fields_by_name:  # else the run is held, to be ended by the call
            await self._tell(owner, "memory.CommitTurn", names)
        return await self._furnish_more(owner, method, names)

    async def _furnish_more(self, owner: Principal, method: MethodDescriptor, names: Names) -> Names:
        """What only few requests are about."""
        if method.name in {"GetExecution", "CancelExecution"}:
            await self._tell(owner, "toolexec.StartExecution", names)
        elif method.name in {"ListDeadLetters", "RedriveDeadLetter"}:
            record = Record("hello", names.agent, 1, (), queue="SIMPLE")
            lost = Internal("internal error")
            redis = Redis(self.store)
            letter = DeadLetter(names.given_up, owner.user, record, 3, lost, time.time_ns() // 1_000_000)
            await RedisDeadLetters(redis).put(owner, letter)
            await redis.close()
        elif method.name == "WatchEvents":
            asked = run_pb2.RunTurnRequest(session_id=names.session, input="hello")
            await ask(self.inside, method_of("orchestrator.RunTurn"), asked, self.mesh(owner))
            await until(lambda: self._has_events(owner, method, names))  # they are kept a moment after the run
        elif method.name == "RespondToRun":
            return await self._waiting(owner, names)
        return names

    async def _has_events(self, owner: Principal, method: MethodDescriptor, names: Names) -> bool:
        request = ROWS[path(method)].build(names)
        return bool((await self.replies(self.inside, method, request, self.mesh(owner)))[0].type)

    async def _waiting(self, owner: Principal, names: Names) -> Names:
        """A run that waits for an approval."""
        await self.told(owner, "memory.PutAgent", memory.PutAgentRequest(agent=a_paying_agent("pays")))
        made = await self.told(owner, "memory.CreateSession", memory.CreateSessionRequest(agent="pays"))
        asked = run_pb2.RunTurnRequest(session_id=made.session.session_id, input=PAYS)
        event = (await ask(self.inside, method_of("orchestrator.RunTurn"), asked, self.mesh(owner)))[-1]
        return replace(names, run=event.run_id, approval_token=event.approval_required.approval_token)

    async def _tell(self, owner: Principal, name: str, names: Names) -> Any:
        return await self.told(owner, name, ROWS[path(method_of(name))].build(names))

    async def _put_agent(self, owner: Principal, name: str) -> None:
        agent = an_agent(name)
        agent.model.tool_choice = agent_pb2.TOOL_CHOICE_MODEL
        guarded = agent.tools.add()
        guarded.CopyFrom(agent.tools[0])
        guarded.name = "file"
        guarded.roles.append(CLERK)
        await self.told(owner, "memory.PutAgent", memory.PutAgentRequest(agent=agent))


@asynccontextmanager
async def guarded(folder: Folder, state: StackState) -> AsyncIterator[Guarded]:
    """Channels to Envoy and to the services of a stack that runs."""
    async with (
        grpc.aio.insecure_channel(state.addresses["envoy"]) as edge,
        grpc.aio.insecure_channel(state.addresses["orchestrator"]) as inside,
    ):
        yield Guarded(folder, edge, inside, operator_url(state.addresses["valkey"], folder.store))
