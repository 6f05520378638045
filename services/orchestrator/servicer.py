"""The contract on one side, runs and what memory owns on the other."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing

import protovalidate
import structlog

from myriad.memory.v1 import memory_pb2
from myriad.orchestrator.v1 import (
    budgets_pb2,
    events_pb2,
    orchestrator_pb2_grpc,
    queue_pb2,
    run_event_pb2,
    run_pb2,
    sessions_pb2,
)
from services.kit import status
from services.kit.amounts_codec import write_amounts
from services.kit.call import Principal, current_principal
from services.kit.errors import RunNotFound, ServiceError
from services.kit.interceptors.validation import check
from services.kit.run_ids import write_run_id
from services.orchestrator import budgets
from services.orchestrator.codec import callback_of, run_of
from services.orchestrator.core.runs import Runs
from services.orchestrator.directory import Directory
from services.orchestrator.domain.run import Standing
from services.orchestrator.happenings import Happenings, copy_request
from services.orchestrator.letters import Letters
from services.orchestrator.requests import answer_of, run_request, turn_request

log = structlog.get_logger(__name__)

_RUNS_A_PAGE = 50
_AT_ONCE = 32
"""Runs of a batch that are accepted at the same time."""


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Answers OrchestratorService."""

    def __init__(self, runs: Runs, directory: Directory, happenings: Happenings, letters: Letters) -> None:
        """Answers from these; `happenings` is told of sessions, and has events and feedback."""
        self._runs = runs
        self._directory = directory
        self._happenings = happenings
        self._letters = letters
        self._validator = protovalidate.Validator()
        self._stopping: set[asyncio.Task[None]] = set()
        self._streams: Counter[tuple[str, str]] = Counter()

    async def CreateSession(
        self, request: sessions_pb2.CreateSessionRequest, context: object
    ) -> sessions_pb2.CreateSessionResponse:
        """Opens a conversation."""
        reply = await self._directory.create_session(
            memory_pb2.CreateSessionRequest(agent=request.agent, request_id=request.request_id)
        )
        self._runs.remember(current_principal(), reply.session.session_id, reply.session.agent)
        self._happenings.session_started(current_principal(), reply.session)
        return sessions_pb2.CreateSessionResponse(session=reply.session)

    async def GetSession(
        self, request: sessions_pb2.GetSessionRequest, context: object
    ) -> sessions_pb2.GetSessionResponse:
        """Reads a session."""
        reply = await self._directory.get_session(memory_pb2.GetSessionRequest(session_id=request.session_id))
        return sessions_pb2.GetSessionResponse(session=reply.session)

    async def ListSessions(
        self, request: sessions_pb2.ListSessionsRequest, context: object
    ) -> sessions_pb2.ListSessionsResponse:
        """Lists the caller's sessions."""
        reply = await self._directory.list_sessions(
            memory_pb2.ListSessionsRequest(page_size=request.page_size, page_token=request.page_token)
        )
        return sessions_pb2.ListSessionsResponse(sessions=reply.sessions, next_page_token=reply.next_page_token)

    async def ForkSession(
        self, request: sessions_pb2.ForkSessionRequest, context: object
    ) -> sessions_pb2.ForkSessionResponse:
        """Opens a conversation that begins where another was."""
        reply = await self._directory.copy_session(copy_request(request))
        self._runs.remember(current_principal(), reply.session.session_id, reply.session.agent)
        self._happenings.session_started(current_principal(), reply.session)
        return sessions_pb2.ForkSessionResponse(session=reply.session)

    async def DeleteSession(
        self, request: sessions_pb2.DeleteSessionRequest, context: object
    ) -> sessions_pb2.DeleteSessionResponse:
        """Deletes a session."""
        await self._directory.delete_session(memory_pb2.DeleteSessionRequest(session_id=request.session_id))
        return sessions_pb2.DeleteSessionResponse()

    async def RunTurn(self, request: run_pb2.RunTurnRequest, context: object) -> AsyncGenerator[run_event_pb2.RunEvent]:
        """Begins a run and streams it. A client that goes away stops it, unless it said otherwise."""
        principal = current_principal()
        stops = request.on_disconnect != run_pb2.ON_DISCONNECT_CONTINUE

        def left(run_id: str) -> None:
            if stops and not self._streams[principal.tenant, run_id]:
                self._stop(principal, run_id)

        run_id = await self._runs.begin(principal, turn_request(request), left)
        key = (principal.tenant, run_id)
        self._streams[key] += 1
        gone = False
        try:
            async for event in self._events(principal, run_id, 0):
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            gone = True  # the client is; after an error of ours it resumes
            raise
        finally:
            self._streams[key] -= 1
            if not self._streams[key]:
                del self._streams[key]
            if gone:
                left(run_id)  # another stream may still show the run

    async def WatchRun(
        self, request: run_pb2.WatchRunRequest, context: object
    ) -> AsyncGenerator[run_event_pb2.RunEvent]:
        """Streams a run after a cursor."""
        async for event in self._events(current_principal(), request.run_id, request.after_sequence):
            yield event

    async def CreateRun(self, request: run_pb2.CreateRunRequest, context: object) -> run_pb2.CreateRunResponse:
        """Accepts a run for the workers."""
        return run_pb2.CreateRunResponse(run=await self._create(request))

    async def CreateRuns(self, request: run_pb2.CreateRunsRequest, context: object) -> run_pb2.CreateRunsResponse:
        """Accepts many, each for itself; those of one session in their order."""
        places = asyncio.Semaphore(_AT_ONCE)
        orders: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

        async def create(item: run_pb2.CreateRunRequest) -> run_pb2.CreateRunsResult:
            async with orders[item.session_id], places:
                try:
                    check(self._validator, item)
                    return run_pb2.CreateRunsResult(run=await self._create(item))
                except ServiceError as error:
                    return run_pb2.CreateRunsResult(error=status.to_proto(error))

        return run_pb2.CreateRunsResponse(results=await asyncio.gather(*map(create, request.requests)))

    async def RespondToRun(self, request: run_pb2.RespondToRunRequest, context: object) -> run_pb2.RespondToRunResponse:
        """Answers a run that waits."""
        responded = await self._runs.respond(
            current_principal(), request.run_id, request.approval_token, answer_of(request)
        )
        budgets.tell(write_amounts(responded.remaining))
        return run_pb2.RespondToRunResponse(run=await self._describe(responded.owner, request.run_id))

    async def ListRuns(self, request: run_pb2.ListRunsRequest, context: object) -> run_pb2.ListRunsResponse:
        """Lists the runs of a session."""
        found = await self._directory.get_session(memory_pb2.GetSessionRequest(session_id=request.session_id))
        newest = min(int(request.page_token or found.session.run_count), found.session.run_count)
        oldest = max(newest - (request.page_size or _RUNS_A_PAGE), 0)
        ids = [write_run_id(request.session_id, number) for number in range(newest, oldest, -1)]
        runs = await asyncio.gather(*(self._run(run_id) for run_id in ids))
        token = str(oldest) if oldest else ""
        return run_pb2.ListRunsResponse(runs=[run for run in runs if run is not None], next_page_token=token)

    async def GetRun(self, request: run_pb2.GetRunRequest, context: object) -> run_pb2.GetRunResponse:
        """Reads how far a run is."""
        run = await self._describe(current_principal(), request.run_id)
        budgets.tell(run.usage.remaining if run.usage.HasField("remaining") else None)
        return run_pb2.GetRunResponse(run=run)

    async def CancelRun(self, request: run_pb2.CancelRunRequest, context: object) -> run_pb2.CancelRunResponse:
        """Stops a run."""
        await self._runs.cancel(current_principal(), request.run_id)
        return run_pb2.CancelRunResponse()

    async def SubmitFeedback(
        self, request: run_pb2.SubmitFeedbackRequest, context: object
    ) -> run_pb2.SubmitFeedbackResponse:
        """Takes a word on a run."""
        await self._happenings.submit(current_principal(), request)
        return run_pb2.SubmitFeedbackResponse()

    async def ListDeadLetters(
        self, request: queue_pb2.ListDeadLettersRequest, context: object
    ) -> queue_pb2.ListDeadLettersResponse:
        """Lists runs that were given up."""
        return await self._letters.page(request)

    async def RedriveDeadLetter(
        self, request: queue_pb2.RedriveDeadLetterRequest, context: object
    ) -> queue_pb2.RedriveDeadLetterResponse:
        """Asks again what one of them was asked."""
        return await self._letters.redrive(request)

    async def WatchEvents(
        self, request: events_pb2.WatchEventsRequest, context: object
    ) -> AsyncGenerator[events_pb2.DomainEvent]:
        """Streams what happens in the tenant."""
        async with aclosing(self._happenings.watch(current_principal(), request)) as events:
            async for event in events:
                yield event

    async def GetBudget(self, request: budgets_pb2.GetBudgetRequest, context: object) -> budgets_pb2.GetBudgetResponse:
        """Reads a budget."""
        reply = await self._directory.get_budget(budgets.get_request(request))
        return budgets_pb2.GetBudgetResponse(state=budgets.told(reply.state))

    async def SetBudget(self, request: budgets_pb2.SetBudgetRequest, context: object) -> budgets_pb2.SetBudgetResponse:
        """Writes a budget."""
        reply = await self._directory.set_budget(budgets.set_request(request))
        return budgets_pb2.SetBudgetResponse(state=budgets.told(reply.state))

    async def GetAgent(self, request: sessions_pb2.GetAgentRequest, context: object) -> sessions_pb2.GetAgentResponse:
        """Reads the latest revision of an agent."""
        reply = await self._directory.get_agent(memory_pb2.GetAgentRequest(agent={"name": request.agent}))
        return sessions_pb2.GetAgentResponse(agent=reply.agent)

    async def ListAgents(
        self, request: sessions_pb2.ListAgentsRequest, context: object
    ) -> sessions_pb2.ListAgentsResponse:
        """Lists the tenant's agents."""
        reply = await self._directory.list_agents(memory_pb2.ListAgentsRequest())
        return sessions_pb2.ListAgentsResponse(agents=reply.agents)

    async def _create(self, request: run_pb2.CreateRunRequest) -> run_pb2.Run:
        accepted = await self._runs.accept(current_principal(), run_request(request), lambda run_id: None)
        budgets.tell(write_amounts(accepted.left))
        if accepted.log and not request.callback_url:
            return run_of(accepted.log[0], accepted.log[-1], Standing.QUEUED)
        return await self._run(accepted.run_id) or run_pb2.Run(run_id=accepted.run_id, state=run_pb2.RUN_STATE_QUEUED)

    async def _run(self, run_id: str) -> run_pb2.Run | None:
        """A run of the caller. None: its log is gone, or still empty."""
        try:
            return await self._describe(current_principal(), run_id)
        except RunNotFound:
            return None

    async def _describe(self, principal: Principal, run_id: str) -> run_pb2.Run:
        """A run. Raises RunNotFound."""
        run = run_of(*await self._runs.bounds(principal, run_id))
        outcome = await self._runs.callback(principal, run_id)
        if outcome is not None:
            run.callback.CopyFrom(callback_of(outcome))
        return run

    async def _events(
        self, principal: Principal, run_id: str, after_sequence: int
    ) -> AsyncGenerator[run_event_pb2.RunEvent]:
        entries = self._runs.watch(principal, run_id, after_sequence)
        try:
            async for entry in entries:
                if entry is None:
                    yield run_event_pb2.RunEvent(run_id=run_id, heartbeat=run_event_pb2.RunHeartbeat())
                else:
                    yield run_event_pb2.RunEvent.FromString(entry)
        finally:
            await entries.aclose()

    def _stop(self, principal: Principal, run_id: str) -> None:
        """Stops a run whose client has gone, in a task of its own: the client's is being cancelled."""

        async def stop() -> None:
            try:
                await self._runs.leave(principal, run_id)
            except ServiceError as error:
                log.warning("run not stopped", run_id=run_id, reason=error.reason)

        task = asyncio.create_task(stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
