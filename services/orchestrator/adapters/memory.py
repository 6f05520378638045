"""The memory service: sessions, turns and agents."""

import asyncio
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from myriad.common.v1 import agent_pb2, common_pb2, tool_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc, turn_pb2
from services.kit.agents import AgentCatalog
from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.amounts_codec import read_amounts, write_amounts
from services.kit.call import current_principal
from services.kit.clients import Client
from services.orchestrator.domain.agent import (
    Agent,
    Intent,
    Knowledge,
    Message,
    Role,
    SideEffect,
    Tool,
    ToolBinding,
    ToolCall,
)
from services.orchestrator.domain.run import Grant, Next, Request, Resumed, Turn

_TIMEOUT_S = 2.0
_LATEST_S = 1.0
_TOOL_S, _BACKGROUND_S = 10.0, 3600.0
"""How long a tool may take that does not say so."""
_AGENTS = 1024
_NO_PARAMETERS = {"type": "object", "additionalProperties": False}
_ROLES = {
    Role.SYSTEM: common_pb2.ROLE_SYSTEM,
    Role.USER: common_pb2.ROLE_USER,
    Role.ASSISTANT: common_pb2.ROLE_ASSISTANT,
    Role.TOOL: common_pb2.ROLE_TOOL,
}
_ROLE_OF = {value: role for role, value in _ROLES.items()}


class MemoryTurns:
    """`ports.Memory` over gRPC."""

    def __init__(self, client: Client) -> None:
        """Calls over `client`."""
        self._client = client
        self._stub = memory_pb2_grpc.MemoryServiceStub(client.channel)

    async def begin_turn(
        self, request: Request, digest: bytes, lease_s: float, record: bytes = b"", wanted: Amounts = NO_AMOUNTS
    ) -> Turn:
        """Takes the session for a run, or puts the run into its line."""
        message = turn_pb2.BeginTurnRequest(
            session_id=request.session_id,
            request_id=request.request_id,
            request_digest=digest,
            record=record,
            concurrency=f"CONCURRENCY_{request.concurrency}",
            defer=bool(request.queue),
            wanted=write_amounts(wanted),
        )
        message.lease.FromNanoseconds(int(lease_s * 1e9))
        if request.due_ms:
            message.start_after.FromMilliseconds(request.due_ms)
        reply = await self._client.unary(self._stub.BeginTurn, message, timeout=_TIMEOUT_S)
        history = tuple(map(_message, reply.history))
        begun = (reply.run_id, reply.fencing_token, reply.attached, reply.agent, history)
        return Turn(*begun, reply.queued, reply.position, *_granted(reply))

    async def resume_turn(self, session_id: str, lease_s: float, run: int = 0) -> Resumed:
        """Goes on in a session."""
        request = turn_pb2.ResumeTurnRequest(session_id=session_id, run=run)
        request.lease.FromNanoseconds(int(lease_s * 1e9))
        reply = await self._client.unary(self._stub.ResumeTurn, request, timeout=_TIMEOUT_S)
        begun = (reply.run_id, reply.fencing_token, False, reply.agent, tuple(map(_message, reply.history)))
        turn = Turn(*begun, False, 0, *_granted(reply))
        return Resumed(turn, reply.record, reply.checkpoint, reply.attempts, reply.response)

    async def extend_turn(self, turn: Turn, wanted: Amounts) -> Grant:
        """Has more set apart for a run."""
        request = turn_pb2.ExtendTurnRequest(
            run_id=turn.run_id, fencing_token=turn.fencing_token, wanted=write_amounts(wanted)
        )
        reply = await self._client.unary(self._stub.ExtendTurn, request, timeout=_TIMEOUT_S)
        return Grant(*_granted(reply))

    async def commit_turn(
        self,
        turn: Turn,
        messages: Sequence[Message],
        last: Sequence[bytes],
        sequence: int,
        spent: Amounts = NO_AMOUNTS,
    ) -> Next | None:
        """Ends a turn that is kept."""
        request = turn_pb2.CommitTurnRequest(
            run_id=turn.run_id,
            fencing_token=turn.fencing_token,
            messages=[_wire_message(message, turn.run_id) for message in messages],
            last_events=last,
            first_sequence=sequence,
            spent=write_amounts(spent),
        )
        reply = await self._client.unary(self._stub.CommitTurn, request, timeout=_TIMEOUT_S)
        return _next(reply)

    async def abandon_turn(
        self, turn: Turn, last: Sequence[bytes], sequence: int, spent: Amounts = NO_AMOUNTS
    ) -> Next | None:
        """Ends a turn that leaves nothing in the history."""
        request = turn_pb2.AbandonTurnRequest(
            run_id=turn.run_id,
            fencing_token=turn.fencing_token,
            last_events=last,
            first_sequence=sequence,
            spent=write_amounts(spent),
        )
        reply = await self._client.unary(self._stub.AbandonTurn, request, timeout=_TIMEOUT_S)
        return _next(reply)

    async def agent_of(self, session_id: str) -> str:
        """Name of the agent a session is with."""
        request = memory_pb2.GetSessionRequest(session_id=session_id)
        return (await self._client.unary(self._stub.GetSession, request, timeout=_TIMEOUT_S)).session.agent


class MemoryAgents:
    """`ports.Agents`: the latest revision is asked for at most once a second and tenant."""

    def __init__(self, client: Client) -> None:
        """Reads over `client`."""
        self._catalog = AgentCatalog(client)
        self._latest: dict[tuple[str, str], tuple[float, Agent]] = {}
        self._revisions: dict[tuple[str, str, int], Agent] = {}

    async def revision(self, name: str, revision: int) -> Agent:
        """One revision."""
        key = (current_principal().tenant, name, revision)
        known = self._revisions.get(key)
        if known is None:
            known = agent_of(await self._catalog.get(name, revision))
            if len(self._revisions) >= _AGENTS:
                self._revisions.clear()
            self._revisions[key] = known
        return known

    async def latest(self, name: str) -> Agent:
        """The latest revision."""
        key = (current_principal().tenant, name)
        now = asyncio.get_running_loop().time()
        known = self._latest.get(key)
        if known is None or now - known[0] > _LATEST_S:
            message = await self._catalog.get(name, 0)
            agent = known[1] if known and known[1].revision == message.revision else agent_of(message)
            if len(self._latest) >= _AGENTS:
                self._latest.clear()
            known = self._latest[key] = (now, agent)
        return known[1]


class MemoryDirectory:
    """`Directory`: what memory owns passes through."""

    def __init__(self, client: Client) -> None:
        """Calls over `client`."""
        self._client = client
        self._stub = memory_pb2_grpc.MemoryServiceStub(client.channel)

    async def create_session(self, request: memory_pb2.CreateSessionRequest) -> memory_pb2.CreateSessionResponse:
        """Makes a session."""
        return await self._client.unary(self._stub.CreateSession, request, timeout=_TIMEOUT_S)

    async def get_session(self, request: memory_pb2.GetSessionRequest) -> memory_pb2.GetSessionResponse:
        """Reads one."""
        return await self._client.unary(self._stub.GetSession, request, timeout=_TIMEOUT_S)

    async def list_sessions(self, request: memory_pb2.ListSessionsRequest) -> memory_pb2.ListSessionsResponse:
        """Lists the caller's."""
        return await self._client.unary(self._stub.ListSessions, request, timeout=_TIMEOUT_S)

    async def delete_session(self, request: memory_pb2.DeleteSessionRequest) -> memory_pb2.DeleteSessionResponse:
        """Deletes one."""
        return await self._client.unary(self._stub.DeleteSession, request, timeout=_TIMEOUT_S)

    async def copy_session(self, request: memory_pb2.CopySessionRequest) -> memory_pb2.CopySessionResponse:
        """Copies one."""
        return await self._client.unary(self._stub.CopySession, request, timeout=_TIMEOUT_S)

    async def get_budget(self, request: memory_pb2.GetBudgetRequest) -> memory_pb2.GetBudgetResponse:
        """Reads a budget."""
        return await self._client.unary(self._stub.GetBudget, request, timeout=_TIMEOUT_S)

    async def set_budget(self, request: memory_pb2.SetBudgetRequest) -> memory_pb2.SetBudgetResponse:
        """Writes a budget."""
        return await self._client.unary(self._stub.SetBudget, request, timeout=_TIMEOUT_S)

    async def get_agent(self, request: memory_pb2.GetAgentRequest) -> memory_pb2.GetAgentResponse:
        """Reads an agent."""
        return await self._client.unary(self._stub.GetAgent, request, timeout=_TIMEOUT_S)

    async def list_agents(self, request: memory_pb2.ListAgentsRequest) -> memory_pb2.ListAgentsResponse:
        """Lists the tenant's."""
        return await self._client.unary(self._stub.ListAgents, request, timeout=_TIMEOUT_S)


def _next(reply: turn_pb2.CommitTurnResponse | turn_pb2.AbandonTurnResponse) -> Next | None:
    return Next(reply.next.run_id, reply.next.record) if reply.HasField("next") else None


def _granted(
    reply: turn_pb2.BeginTurnResponse | turn_pb2.ResumeTurnResponse | turn_pb2.ExtendTurnResponse,
) -> tuple[Amounts, int, Amounts]:
    return read_amounts(reply.granted), reply.renew_time.ToMilliseconds(), read_amounts(reply.remaining)


def agent_of(message: agent_pb2.Agent) -> Agent:
    """An agent as the turn has it, with the defaults of the contract filled in."""
    model, limits = message.model, message.limits
    return Agent(
        name=message.name,
        revision=message.revision,
        persona=message.persona,
        intents={intent.name: _intent(intent) for intent in message.intents},
        tools={tool.name: _tool(tool) for tool in message.tools},
        knowledge=_knowledge(message.knowledge) if message.HasField("knowledge") else None,
        model=model.model,
        max_answer_tokens=model.max_tokens or 256,
        temperature=model.temperature if model.HasField("temperature") else 0.2,
        model_chooses_tools=model.tool_choice == agent_pb2.TOOL_CHOICE_MODEL,
        max_steps=limits.max_steps or 6,
        max_tokens=limits.max_tokens or 2048,
        timeout_s=limits.timeout.ToNanoseconds() / 1e9 if limits.HasField("timeout") else 60.0,
        max_cost_micros=limits.max_cost_micros,
        max_tool_calls=limits.max_tool_calls,
    )


def _intent(intent: agent_pb2.Intent) -> Intent:
    binding = None
    if intent.HasField("tool"):
        binding = ToolBinding(intent.tool.name, dict(intent.tool.arguments), intent.tool.ask)
    return Intent(intent.name, binding, intent.skip_knowledge)


def _tool(tool: tool_pb2.Tool) -> Tool:
    parameters: dict[str, Any] = _NO_PARAMETERS
    if tool.HasField("parameters"):
        parameters = json_format.MessageToDict(tool.parameters)
    default_s = _BACKGROUND_S if tool.background else _TOOL_S
    timeout_s = tool.timeout.ToNanoseconds() / 1e9 if tool.HasField("timeout") else default_s
    side_effect = SideEffect(tool_pb2.SideEffect.Name(tool.side_effect).removeprefix("SIDE_EFFECT_"))
    client = tool.WhichOneof("kind") == "client"
    return Tool(tool.name, tool.description, parameters, timeout_s, side_effect, tool.background, client)


def _knowledge(knowledge: agent_pb2.Knowledge) -> Knowledge:
    return Knowledge(tuple(knowledge.collections), knowledge.top_k or 3, knowledge.min_score)


def _message(message: common_pb2.Message) -> Message:
    calls = tuple(ToolCall(call.tool_call_id, call.tool, call.arguments_json) for call in message.tool_calls)
    return Message(_ROLE_OF[message.role], message.content, calls, message.tool_call_id)


def _wire_message(message: Message, run_id: str) -> common_pb2.Message:
    wire = common_pb2.Message(
        role=_ROLES[message.role],
        content=message.content,
        tool_calls=[
            common_pb2.ToolCall(tool_call_id=call.id, tool=call.tool, arguments_json=call.arguments_json)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
        run_id=run_id,
    )
    wire.create_time.GetCurrentTime()
    return wire
