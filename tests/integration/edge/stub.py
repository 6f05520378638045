"""An orchestrator that answers from a script and remembers how it was called: Envoy's behaviour is what is tested."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.kit import errors, status

Context = grpc.aio.ServicerContext[object, object]


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

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        """Opens session `opened`; for agent `absent` and agent `unavailable`, fails."""
        self._note("CreateSession", request, context)
        if request.agent == "absent":
            await refuse(context, errors.AgentNotFound("no agent absent", metadata={"agent": "absent"}))
        if request.agent == "unavailable":
            await refuse(context, errors.StoreUnavailable("the store is away", retry_after=1))
        response = pb.CreateSessionResponse()
        response.session.session_id = "opened"
        response.session.agent = request.agent
        return response

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        """Nothing."""
        self._note("GetSession", request, context)
        return pb.GetSessionResponse()

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        """Nothing."""
        self._note("GetAgent", request, context)
        return pb.GetAgentResponse()

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        """Nothing."""
        self._note("ListAgents", request, context)
        return pb.ListAgentsResponse()

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        """As many sessions as asked for, each named by 40 kB when the page token is `large`."""
        self._note("ListSessions", request, context)
        response = pb.ListSessionsResponse()
        for number in range(request.page_size):
            name = f"{number}".ljust(40_000, "x") if request.page_token == "large" else f"{number}"
            response.sessions.add(session_id=name)
        return response

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        """Never ends."""
        self._note("DeleteSession", request, context)
        await asyncio.Event().wait()
        return pb.DeleteSessionResponse()

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """The run asked for; its sequence is 0."""
        self._note("GetRun", request, context)
        return pb.GetRunResponse(run=pb.Run(run_id=request.run_id, state=pb.RUN_STATE_RUNNING))

    async def RunTurn(self, request: pb.RunTurnRequest, context: Context) -> AsyncIterator[pb.RunEvent]:
        """Two events, the second once the test says so. Input `busy`: refused before the first. `late`: after it."""
        self._note("RunTurn", request, context)
        if request.input == "busy":
            await refuse(context, errors.SessionBusy("another run holds the session"))
        yield pb.RunEvent(run_id="s.1", sequence=1, text_delta=pb.RunTextDelta(text="one"))
        if request.input == "late":
            await refuse(context, errors.StoreUnavailable("the store is away", retry_after=1))
        try:
            await self.proceed.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        yield pb.RunEvent(run_id="s.1", sequence=2, completed=pb.RunCompleted(answer="one"))

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> pb.CreateRunResponse:
        """Nothing."""
        self._note("CreateRun", request, context)
        return pb.CreateRunResponse()

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Nothing."""
        self._note("ListRuns", request, context)
        return pb.ListRunsResponse()

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.RunEvent]:
        """One event: the next after the cursor."""
        self._note("WatchRun", request, context)
        yield pb.RunEvent(run_id=request.run_id, sequence=request.after_sequence + 1)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        """Always told."""
        self._note("CancelRun", request, context)
        return pb.CancelRunResponse()


async def refuse(context: Context, error: errors.ServiceError) -> None:
    """Ends the call with the error, as the services do."""
    wire = status.to_status(error)
    await context.abort(wire.code, wire.message, wire.trailers)


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


for each in pb.DESCRIPTOR.services_by_name["OrchestratorService"].methods:
    if each.name not in vars(StubOrchestrator):  # what no test asks for in particular answers nothing
        answer = _stream if each.server_streaming else _unary
        setattr(StubOrchestrator, each.name, answer(each.name, GetMessageClass(each.output_type)))
