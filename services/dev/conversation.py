"""Talks to an agent through Envoy as a client of ours should: resumes a broken stream, stops a run by saying so."""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2, sessions_pb2
from services.dev.transcript import Transcript
from services.kit.clients import Client
from services.kit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ServiceError,
    ServiceUnavailable,
    Unavailable,
)

TIMEOUT_S = 10.0
"""Longest time of a call with one reply."""

RUN_S = 900.0
"""Longest time of a run's stream."""

_RESUMES = 9
"""Times in a row that a stream may break without an event."""

_RESUME_AFTER_S = 0.5
_GROWTH = 1.6
_LONGEST_PAUSE_S = 8.0
_CHANCE = (0.5, 1.5)
"""A pause is so many times as long, somewhere in between: clients whose streams broke together do not come together."""

_LOOK_AGAIN_S = 1.0
"""Pause between two looks at a run that waits for a slow tool."""

Response = run_pb2.Approve | run_pb2.Deny | run_pb2.ClientToolResult
"""What may be answered to a run that waits."""


class Conversation:
    """One session with an agent."""

    def __init__(self, client: Client, session_id: str, agent: str) -> None:
        """Talks in a session that is there."""
        self.session_id = session_id
        self.agent = agent
        self._client = client
        self._stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)

    @classmethod
    async def begin(cls, client: Client, *, agent: str | None, session_id: str | None) -> "Conversation":
        """Opens a session, or takes up one.

        Args:
            client: Of the orchestrator.
            agent: Whom to talk to. None: the agent of the session.
            session_id: The session to take up. None: a new one.

        Raises:
            ServiceError: there is no such agent or session, or nothing answers.
            InvalidArgument: the session is with another agent, or neither is named.
        """
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        if session_id is None:
            if agent is None:
                raise InvalidArgument("name an agent or a session")
            opening = sessions_pb2.CreateSessionRequest(agent=agent, request_id=uuid.uuid4().hex)
            session = (await client.unary(stub.CreateSession, opening, timeout=TIMEOUT_S)).session
        else:
            known = sessions_pb2.GetSessionRequest(session_id=session_id)
            session = (await client.unary(stub.GetSession, known, timeout=TIMEOUT_S)).session
            if agent is not None and agent != session.agent:
                raise InvalidArgument(f"session {session_id} is with {session.agent}, not with {agent}")
        return cls(client, session.session_id, session.agent)

    async def say(self, text: str, seen: Transcript | None = None) -> AsyncGenerator[run_event_pb2.RunEvent]:
        """Says something; yields the events of the run that answers, to its last, or until somebody must answer it.

        A stream that breaks is resumed: from its cursor, or under the same request id before there is one, so that
        nothing is said twice. A task that is cancelled meanwhile stops the run.

        Args:
            text: What is said.
            seen: Takes the events. None: one of its own.

        Raises:
            ServiceError: the turn was refused, or the stream broke for good.
        """
        request = run_pb2.RunTurnRequest(
            session_id=self.session_id,
            input=text,
            request_id=uuid.uuid4().hex,
            on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE,
        )
        async with aclosing(follow(self._client, seen if seen is not None else Transcript(), request)) as events:
            async for event in events:
                yield event

    async def answer(self, seen: Transcript, response: Response) -> AsyncGenerator[run_event_pb2.RunEvent]:
        """Answers a run that asked something; yields, and adds to `seen`, the events that follow, as `say`.

        Raises:
            RunNotWaiting, ApprovalInvalid: it is answered already, or the time to answer is over: `watch` shows more.
            ServiceError: it was not answered, or the stream broke for good.
        """
        token = seen.asked.approval_token if seen.asked is not None else ""
        await respond(self._client, seen.run_id, token, response)
        seen.answer_taken(token)
        async with aclosing(self.watch(seen)) as events:
            async for event in events:
                yield event

    def watch(self, seen: Transcript) -> AsyncGenerator[run_event_pb2.RunEvent]:
        """Yields, and adds to `seen`, what else happens in its run, as `say`."""
        return follow(self._client, seen)

    async def cancel(self, run_id: str) -> None:
        """Stops a run."""
        await cancel(self._client, run_id)


async def respond(client: Client, run_id: str, token: str, response: Response) -> run_pb2.Run:
    """Answers a run that waits. Returns it.

    Raises:
        RunNotFound, RunNotWaiting, ApprovalInvalid: as the orchestrator says.
    """
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
    request = run_pb2.RespondToRunRequest(run_id=run_id, request_id=uuid.uuid4().hex, approval_token=token)
    field = {run_pb2.Approve: request.approve, run_pb2.Deny: request.deny}.get(type(response), request.tool_result)
    field.SetInParent()
    field.MergeFrom(response)
    reply: run_pb2.RespondToRunResponse = await client.unary(stub.RespondToRun, request, timeout=TIMEOUT_S)
    return reply.run


async def cancel(client: Client, run_id: str) -> None:
    """Stops a run. Returns when it was told; Envoy may be away for a moment.

    Raises:
        RunNotFound: the caller has no such run.
        Unavailable: nobody could be told for `TIMEOUT_S`.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + TIMEOUT_S
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
    while True:
        try:
            await client.unary(stub.CancelRun, run_pb2.CancelRunRequest(run_id=run_id), timeout=TIMEOUT_S)
            return
        except Unavailable:
            if clock() > give_up:
                raise
        await asyncio.sleep(_RESUME_AFTER_S)


async def follow(
    client: Client, seen: Transcript, request: run_pb2.RunTurnRequest | None = None
) -> AsyncGenerator[run_event_pb2.RunEvent]:
    """Yields the events of a run after those of `seen`, which it adds them to: to the last, or until it asks something.

    Args:
        client: Of the orchestrator.
        seen: What is known of the run.
        request: Begins the run, when nothing is known of it.

    Raises:
        ServiceError: the run was refused, or the stream broke for good.
    """
    try:
        broken = 0
        while broken < _RESUMES:
            pause_s = min(_RESUME_AFTER_S * _GROWTH**broken, _LONGEST_PAUSE_S) * random.uniform(*_CHANCE)
            try:
                async with aclosing(_stream(client, seen, request)) as events:
                    async for event in events:
                        broken = 0
                        seen.add(event)
                        yield event
                if seen.state not in {"running", "waiting"} or seen.asked is not None:
                    return
            except (Unavailable, Internal, DeadlineExceeded) as error:
                if broken == _RESUMES - 1 or not _goes_on(error, seen):
                    raise
            else:
                if seen.state == "waiting":  # for a tool, and that as long as it takes
                    broken, pause_s = -1, _LOOK_AGAIN_S
            await asyncio.sleep(pause_s)
            broken += 1
    except asyncio.CancelledError:
        if seen.run_id:
            await cancel(client, seen.run_id)
        raise
    raise Internal("the run's stream ended without its last event")


def _stream(
    client: Client, seen: Transcript, request: run_pb2.RunTurnRequest | None
) -> AsyncGenerator[run_event_pb2.RunEvent]:
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
    if request is not None and not seen.run_id:
        return client.stream(stub.RunTurn, request, timeout=RUN_S)
    watch = run_pb2.WatchRunRequest(run_id=seen.run_id, after_sequence=seen.last_sequence)
    return client.stream(stub.WatchRun, watch, timeout=RUN_S)


def _goes_on(error: ServiceError, seen: Transcript) -> bool:
    """Whether a broken stream may be resumed. One without an event may have been a turn that was refused for good."""
    return bool(seen.run_id or error.retry_after) or isinstance(error, ServiceUnavailable | Internal | DeadlineExceeded)
