"""`myriad ask` and `myriad respond`: one question or one answer, and what comes of it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from rich.console import Console

from myriad.orchestrator.v1 import run_event_pb2
from services.dev import conversation
from services.dev.conversation import Conversation, Response
from services.dev.edge import Edge, orchestrator_at
from services.dev.show import Show, print_json
from services.dev.transcript import Transcript
from services.kit.errors import RunNotFound
from services.kit.run_ids import session_of

WAITS = 3
"""Exit status: the run waits for somebody's answer."""

Later = Callable[[str, run_event_pb2.RunApprovalRequired], str]
"""The command that answers what a run asks, by its id."""


async def ask(
    console: Console,
    edge: Edge,
    text: str,
    *,
    agent: str | None,
    session_id: str | None,
    as_json: bool,
    later: Later,
) -> int:
    """Asks, and prints the answer: while it comes, or as one JSON object.

    Args:
        console: Where to print.
        edge: Envoy, and who asks.
        text: What is asked.
        agent: Whom. None: the agent of the session.
        session_id: The session to go on with. None: a new one.
        as_json: One object instead of text for a person.
        later: What to type when the run waits for an answer.

    Returns:
        Exit status: 0 when the run completed, `WAITS` when it waits for somebody's answer, else 1.

    Raises:
        ServiceError: the turn was refused.
    """
    transcript = Transcript()
    async with orchestrator_at(edge) as client:
        talk = await Conversation.begin(client, agent=agent, session_id=session_id)
        events = talk.say(text, transcript)
        return await _show(console, transcript, events, talk.session_id, as_json=as_json, later=later)


async def respond(
    console: Console,
    edge: Edge,
    run_id: str,
    token: str,
    response: Response,
    *,
    as_json: bool,
    later: Later,
) -> int:
    """Answers a run that waits, and prints what follows, as `ask`. An approver sees nothing of another user's run.

    Raises:
        RunNotFound, RunNotWaiting, ApprovalInvalid: as the orchestrator says.
        ServiceError: it was not answered.
    """
    transcript = Transcript()
    async with orchestrator_at(edge) as client:
        await conversation.respond(client, run_id, token, response)
        transcript.run_id = run_id
        transcript.answer_taken(token)
        events = _after(token, conversation.follow(client, transcript))
        try:
            session_id = session_of(run_id)
            return await _show(console, transcript, events, session_id, as_json=as_json, later=later)
        except RunNotFound:
            if as_json:
                print_json(console, {"run_id": run_id, "state": "running"})
            else:
                console.print("answered", style="dim")
            return 0


async def _show(
    console: Console,
    transcript: Transcript,
    events: AsyncGenerator[run_event_pb2.RunEvent],
    session_id: str,
    *,
    as_json: bool,
    later: Later,
) -> int:
    show = Show(console)
    async with aclosing(events):
        async for event in events:
            if not as_json:
                show.event(event)
    if as_json:
        print_json(console, {**transcript.to_dict(), "session_id": session_id})
    else:
        show.ended(transcript)
        if transcript.asked is not None:
            show.question(transcript.asked)
            command = later(transcript.run_id, transcript.asked)
            console.print(f"Answer it with: {command}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"session {session_id}", style="dim", highlight=False)
    return WAITS if transcript.asked is not None else 0 if transcript.state == "completed" else 1


async def _after(token: str, events: AsyncGenerator[run_event_pb2.RunEvent]) -> AsyncGenerator[run_event_pb2.RunEvent]:
    """The events after the question that was answered; those before were seen by whoever answered it."""
    reached = False
    async with aclosing(events):
        async for event in events:
            if reached:
                yield event
            reached = reached or event.approval_required.approval_token == token
