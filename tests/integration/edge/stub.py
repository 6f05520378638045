"""An orchestrator that answers from a script and remembers how it was called: Envoy's behaviour is what is tested."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2, sessions_pb2
from services.kit import errors, status
from services.kit.contracts import contract
from services.kit.topology import SERVICES
from tests.support import hostile

Context = grpc.aio.ServicerContext[object, object]
_TOO_DEEP = 60
"""Levels of JSON, each of three messages; protobuf reads a hundred."""


@dataclass
class Seen:
    """How one call arrived."""

    method: str
    request: object
    seconds_left: float | None
    metadata: dict[str, str | bytes]


@dataclass
class StubOrchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """What is asked for decides what is answered: see each method."""

    seen: list[Seen] = field(default_factory=list)
    proceed: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def forget(self) -> None:
        """Begins anew."""
        self.seen.clear()
        self.proceed.clear()
        self.cancelled.clear()

    def _note(self, method: str, request: object, context: Context) -> None:
        metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
        self.seen.append(Seen(method, request, context.time_remaining(), metadata))

    async def CreateSession(
        self, request: sessions_pb2.CreateSessionRequest, context: Context
    ) -> sessions_pb2.CreateSessionResponse:
        """Opens session `opened`; for agent `absent` and agent `unavailable`, fails."""
        self._note("CreateSession", request, context)
        if request.agent == "absent":
            await refuse(context, errors.AgentNotFound("no agent absent", metadata={"agent": "absent"}))
        if request.agent == "unavailable":
            await refuse(context, errors.StoreUnavailable("the store is away", retry_after=1))
        response = sessions_pb2.CreateSessionResponse()
        response.session.session_id = "opened"
        response.session.agent = request.agent
        return response

    async def GetSession(
        self, request: sessions_pb2.GetSessionRequest, context: Context
    ) -> sessions_pb2.GetSessionResponse:
        """Nothing."""
        self._note("GetSession", request, context)
        return sessions_pb2.GetSessionResponse()

    async def GetAgent(self, request: sessions_pb2.GetAgentRequest, context: Context) -> sessions_pb2.GetAgentResponse:
        """Nothing. Of agent `deep`: one whose tool has a schema that nests deeper than protobuf reads."""
        self._note("GetAgent", request, context)
        response: sessions_pb2.GetAgentResponse = (
            too_deep() if request.agent == "deep" else sessions_pb2.GetAgentResponse()
        )
        return response

    async def ListAgents(
        self, request: sessions_pb2.ListAgentsRequest, context: Context
    ) -> sessions_pb2.ListAgentsResponse:
        """Nothing."""
        self._note("ListAgents", request, context)
        return sessions_pb2.ListAgentsResponse()

    async def ListSessions(
        self, request: sessions_pb2.ListSessionsRequest, context: Context
    ) -> sessions_pb2.ListSessionsResponse:
        """As many sessions as asked for, each named by 40 kB when the page token is `large`."""
        self._note("ListSessions", request, context)
        response = sessions_pb2.ListSessionsResponse()
        for number in range(request.page_size):
            name = f"{number}".ljust(40_000, "x") if request.page_token == "large" else f"{number}"
            response.sessions.add(session_id=name)
        return response

    async def DeleteSession(
        self, request: sessions_pb2.DeleteSessionRequest, context: Context
    ) -> sessions_pb2.DeleteSessionResponse:
        """Never ends."""
        self._note("DeleteSession", request, context)
        await asyncio.Event().wait()
        return sessions_pb2.DeleteSessionResponse()

    async def GetRun(self, request: run_pb2.GetRunRequest, context: Context) -> run_pb2.GetRunResponse:
        """The run asked for; its sequence is 0."""
        self._note("GetRun", request, context)
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id, state=run_pb2.RUN_STATE_RUNNING))

    async def RunTurn(self, request: run_pb2.RunTurnRequest, context: Context) -> AsyncIterator[run_event_pb2.RunEvent]:
        """Two events, the second once the test says so. Input `busy`: refused before the first. `late`: after it."""
        self._note("RunTurn", request, context)
        if request.input == "busy":
            await refuse(context, errors.SessionBusy("another run holds the session"))
        yield run_event_pb2.RunEvent(run_id="s.1", sequence=1, text_delta=run_event_pb2.RunTextDelta(text="one"))
        if request.input == "late":
            await refuse(context, errors.StoreUnavailable("the store is away", retry_after=1))
        try:
            await self.proceed.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        yield run_event_pb2.RunEvent(run_id="s.1", sequence=2, completed=run_event_pb2.RunCompleted(answer="one"))

    async def CreateRun(self, request: run_pb2.CreateRunRequest, context: Context) -> run_pb2.CreateRunResponse:
        """Nothing. Input `full`: refused."""
        self._note("CreateRun", request, context)
        if request.input == "full":
            await refuse(
                context, errors.QueueFull("as many items of the tenant wait in the queue as may", retry_after=1)
            )
        return run_pb2.CreateRunResponse()

    async def ListRuns(self, request: run_pb2.ListRunsRequest, context: Context) -> run_pb2.ListRunsResponse:
        """Nothing."""
        self._note("ListRuns", request, context)
        return run_pb2.ListRunsResponse()

    async def WatchRun(
        self, request: run_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[run_event_pb2.RunEvent]:
        """One event: the next after the cursor."""
        self._note("WatchRun", request, context)
        yield run_event_pb2.RunEvent(run_id=request.run_id, sequence=request.after_sequence + 1)

    async def CancelRun(self, request: run_pb2.CancelRunRequest, context: Context) -> run_pb2.CancelRunResponse:
        """Always told."""
        self._note("CancelRun", request, context)
        return run_pb2.CancelRunResponse()


async def refuse(context: Context, error: errors.ServiceError) -> None:
    """Ends the call with the error, as the services do."""
    wire = status.to_status(error)
    await context.abort(wire.code, wire.message, wire.trailers)


def too_deep() -> Any:
    """A `GetAgentResponse` as bytes, in fields that are unknown to this message: it cannot be built as what it is."""
    schema = hostile.field(1, hostile.field(1, b"a") + hostile.field(2, hostile.field(3, b"x")))  # {"a": "x"}
    for _ in range(_TOO_DEEP):
        schema = hostile.field(1, hostile.field(1, b"a") + hostile.field(2, hostile.field(5, schema)))  # {"a": <it>}
    return empty_pb2.Empty.FromString(hostile.field(1, hostile.field(8, hostile.field(3, schema))))


def _unary(name: str, reply: type[Message]) -> Callable[[StubOrchestrator, Message, Context], Awaitable[Message]]:
    async def method(self: StubOrchestrator, request: Message, context: Context) -> Message:
        self._note(name, request, context)
        return reply()

    return method


def _stream(name: str, reply: type[Message]) -> Callable[[StubOrchestrator, Message, Context], AsyncIterator[Message]]:
    async def method(self: StubOrchestrator, request: Message, context: Context) -> AsyncIterator[Message]:
        self._note(name, request, context)
        yield reply()

    return method


for each in contract(SERVICES["orchestrator"].proto_service).methods:
    if each.name not in vars(StubOrchestrator):  # what no test asks for in particular answers nothing
        answer = _stream if each.server_streaming else _unary
        setattr(StubOrchestrator, each.name, answer(each.name, GetMessageClass(each.output_type)))
