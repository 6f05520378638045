"""The contract: messages in, decisions of the core, messages out."""

from myriad.memory.v1 import memory_pb2, memory_pb2_grpc, turn_pb2
from services.kit.amounts_codec import read_amounts, write_amounts
from services.kit.call import current_principal
from services.kit.run_ids import write_run_id
from services.memory import codec
from services.memory.core.agents import Agents
from services.memory.core.budgets import Budgets
from services.memory.core.forks import Forks
from services.memory.core.sessions import Sessions
from services.memory.core.turns import Turns
from services.memory.domain import Request, Scope


class MemoryServicer(memory_pb2_grpc.MemoryServiceServicer):
    """myriad.memory.v1.MemoryService."""

    def __init__(self, sessions: Sessions, turns: Turns, agents: Agents, forks: Forks, budgets: Budgets) -> None:
        """Answers with what these decide."""
        self._sessions = sessions
        self._turns = turns
        self._agents = agents
        self._forks = forks
        self._budgets = budgets

    async def CreateSession(
        self, request: memory_pb2.CreateSessionRequest, context: object
    ) -> memory_pb2.CreateSessionResponse:
        """Makes a session."""
        session = await self._sessions.create(current_principal(), request.agent, request.request_id)
        return memory_pb2.CreateSessionResponse(session=codec.write_session(session))

    async def GetSession(self, request: memory_pb2.GetSessionRequest, context: object) -> memory_pb2.GetSessionResponse:
        """Reads a session."""
        session = await self._sessions.get(current_principal(), request.session_id)
        return memory_pb2.GetSessionResponse(session=codec.write_session(session))

    async def ListSessions(
        self, request: memory_pb2.ListSessionsRequest, context: object
    ) -> memory_pb2.ListSessionsResponse:
        """Lists the caller's sessions."""
        found, token = await self._sessions.page(current_principal(), request.page_size, request.page_token)
        return memory_pb2.ListSessionsResponse(sessions=map(codec.write_session, found), next_page_token=token)

    async def DeleteSession(
        self, request: memory_pb2.DeleteSessionRequest, context: object
    ) -> memory_pb2.DeleteSessionResponse:
        """Forgets a session."""
        await self._sessions.delete(current_principal(), request.session_id)
        return memory_pb2.DeleteSessionResponse()

    async def CopySession(
        self, request: memory_pb2.CopySessionRequest, context: object
    ) -> memory_pb2.CopySessionResponse:
        """Makes a session with the history another has."""
        session = await self._forks.copy(current_principal(), request.session_id, request.run, request.request_id)
        return memory_pb2.CopySessionResponse(session=codec.write_session(session))

    async def BeginTurn(self, request: turn_pb2.BeginTurnRequest, context: object) -> turn_pb2.BeginTurnResponse:
        """Begins a turn."""
        turn = await self._turns.begin(
            current_principal(),
            request.session_id,
            Request(request.request_id, request.request_digest) if request.request_id else None,
            lease_ms=max(1, request.lease.ToMilliseconds()),
            max_messages=request.max_messages,
            max_tokens=request.max_tokens,
            order=codec.read_order(request),
        )
        return turn_pb2.BeginTurnResponse(
            run_id=write_run_id(request.session_id, turn.run),
            fencing_token=turn.token,
            attached=turn.attached,
            agent=turn.agent,
            history=map(codec.write_message, turn.history),
            queued=turn.queued,
            position=turn.position,
            granted=write_amounts(turn.granted),
            renew_time=codec.write_renewal(turn.renews_ms),
            remaining=write_amounts(turn.left),
        )

    async def ResumeTurn(self, request: turn_pb2.ResumeTurnRequest, context: object) -> turn_pb2.ResumeTurnResponse:
        """Goes on in a session."""
        resumed = await self._turns.resume(
            current_principal(),
            request.session_id,
            lease_ms=max(1, request.lease.ToMilliseconds()),
            max_messages=request.max_messages,
            max_tokens=request.max_tokens,
            run=request.run,
        )
        return turn_pb2.ResumeTurnResponse(
            run_id=write_run_id(request.session_id, resumed.turn.run),
            fencing_token=resumed.turn.token,
            agent=resumed.turn.agent,
            history=map(codec.write_message, resumed.turn.history),
            record=resumed.record,
            checkpoint=resumed.checkpoint,
            attempts=resumed.attempts,
            response=resumed.response,
            granted=write_amounts(resumed.turn.granted),
            renew_time=codec.write_renewal(resumed.turn.renews_ms),
            remaining=write_amounts(resumed.turn.left),
        )

    async def ExtendTurn(self, request: turn_pb2.ExtendTurnRequest, context: object) -> turn_pb2.ExtendTurnResponse:
        """Sets more apart for a turn."""
        granted = await self._turns.extend(
            current_principal(), request.run_id, request.fencing_token, read_amounts(request.wanted)
        )
        return turn_pb2.ExtendTurnResponse(
            granted=write_amounts(granted.amounts),
            renew_time=codec.write_renewal(granted.renews_ms),
            remaining=write_amounts(granted.left),
        )

    async def CommitTurn(self, request: turn_pb2.CommitTurnRequest, context: object) -> turn_pb2.CommitTurnResponse:
        """Ends a turn that is kept."""
        due = await self._turns.commit(
            current_principal(),
            request.run_id,
            request.fencing_token,
            [codec.read_message(message) for message in request.messages],
            request.first_sequence,
            request.last_events,
            read_amounts(request.spent),
        )
        return turn_pb2.CommitTurnResponse(next=codec.write_next(request.run_id, due))

    async def AbandonTurn(self, request: turn_pb2.AbandonTurnRequest, context: object) -> turn_pb2.AbandonTurnResponse:
        """Ends a turn that leaves no trace in the history."""
        due = await self._turns.abandon(
            current_principal(),
            request.run_id,
            request.fencing_token,
            request.first_sequence,
            request.last_events,
            read_amounts(request.spent),
        )
        return turn_pb2.AbandonTurnResponse(next=codec.write_next(request.run_id, due))

    async def GetHistory(self, request: memory_pb2.GetHistoryRequest, context: object) -> memory_pb2.GetHistoryResponse:
        """Reads the newest messages."""
        found = await self._sessions.history(current_principal(), request.session_id, request.max_messages)
        return memory_pb2.GetHistoryResponse(messages=map(codec.write_message, found))

    async def PutAgent(self, request: memory_pb2.PutAgentRequest, context: object) -> memory_pb2.PutAgentResponse:
        """Writes an agent."""
        content = codec.read_agent(request.agent)
        agent = await self._agents.put(current_principal(), request.agent.name, content)
        return memory_pb2.PutAgentResponse(agent=codec.write_agent(agent))

    async def GetAgent(self, request: memory_pb2.GetAgentRequest, context: object) -> memory_pb2.GetAgentResponse:
        """Reads one revision of an agent."""
        agent = await self._agents.get(current_principal(), request.agent.name, request.agent.revision)
        return memory_pb2.GetAgentResponse(agent=codec.write_agent(agent))

    async def ListAgents(self, request: memory_pb2.ListAgentsRequest, context: object) -> memory_pb2.ListAgentsResponse:
        """Lists the tenant's agents."""
        found = await self._agents.list(current_principal())
        return memory_pb2.ListAgentsResponse(agents=map(codec.write_agent, found))

    async def GetBudget(self, request: memory_pb2.GetBudgetRequest, context: object) -> memory_pb2.GetBudgetResponse:
        """Reads a budget."""
        state = await self._budgets.get(current_principal(), Scope(request.scope), request.session_id, request.user)
        return memory_pb2.GetBudgetResponse(state=codec.write_budget_state(state))

    async def SetBudget(self, request: memory_pb2.SetBudgetRequest, context: object) -> memory_pb2.SetBudgetResponse:
        """Writes a budget."""
        budget = codec.read_budget(request.budget) if request.HasField("budget") else None
        state = await self._budgets.set(
            current_principal(), Scope(request.scope), request.session_id, request.user, budget
        )
        return memory_pb2.SetBudgetResponse(state=codec.write_budget_state(state))
