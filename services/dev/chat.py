"""`myriad chat`: a conversation on the terminal."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing

from rich.console import Console
from rich.markup import escape

from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.dev.conversation import Conversation, Response
from services.dev.edge import Edge, orchestrator_at
from services.dev.show import Show
from services.dev.transcript import Transcript, reason_of
from services.kit.errors import ApprovalInvalid, RunNotWaiting, ServiceError


def chat(
    console: Console,
    edge: Edge,
    *,
    agent: str | None,
    session_id: str | None,
    again: str,
    later: Callable[[str, run_event_pb2.RunApprovalRequired], str],
) -> None:
    """Talks until the person leaves: Ctrl-D, Ctrl-C at the prompt, or `/quit`. Ctrl-C in an answer stops it.

    Args:
        console: The terminal.
        edge: Envoy, and who talks.
        agent: With whom. None: with the agent of the session.
        session_id: The session to go on with. None: a new one.
        again: The command that takes up a session; the session's id is put after it.
        later: The command that answers what a run asks, by its id.

    Raises:
        ServiceError: the conversation could not be opened.
    """
    # The runner's loop stands still while the person types: Ctrl-C then is the prompt's, and later the answer's.
    with asyncio.Runner() as runner:
        closing = AsyncExitStack()
        try:
            conversation = runner.run(_begin(closing, edge, agent, session_id))
            console.print(f"{conversation.agent} listens. Ctrl-C stops an answer, Ctrl-D leaves.", style="dim")
            _talk(console, runner, conversation, later)
            go_on = f"\nGo on with: {again} {conversation.session_id}"
            console.print(go_on, style="dim", markup=False, highlight=False, soft_wrap=True)
        finally:
            runner.run(closing.aclose())


async def _begin(closing: AsyncExitStack, edge: Edge, agent: str | None, session_id: str | None) -> Conversation:
    client = await closing.enter_async_context(orchestrator_at(edge))
    return await Conversation.begin(client, agent=agent, session_id=session_id)


def _talk(
    console: Console,
    runner: asyncio.Runner,
    conversation: Conversation,
    later: Callable[[str, run_event_pb2.RunApprovalRequired], str],
) -> None:
    while True:
        try:
            text = console.input("\n[bold]you>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if text == "/quit":
            return
        if not text:
            continue
        transcript = Transcript()
        try:
            turn(console, runner, conversation, text, transcript)
        except KeyboardInterrupt:
            console.print("\nstopped", style="yellow")
        except EOFError:
            if transcript.asked is not None:
                said = f"\nIt waits. Answer it with: {later(transcript.run_id, transcript.asked)}"
                console.print(said, style="dim", markup=False, highlight=False, soft_wrap=True)
            return
        except ServiceError as error:
            _complain(console, error)


def turn(
    console: Console, runner: asyncio.Runner, conversation: Conversation, text: str, transcript: Transcript
) -> None:
    """One thing said, what the agent asks meanwhile, and its answer.

    Raises:
        EOFError: the person left while the run waits for them.
        KeyboardInterrupt: they stopped it.
        ServiceError: there is no answer.
    """
    show = Show(console)
    console.print(f"[bold]{conversation.agent}>[/bold] ", end="")
    runner.run(_shown(show, conversation.say(text, transcript)))
    while transcript.asked is not None:
        show.question(transcript.asked)
        try:
            response = ask_person(console, transcript.asked)
        except KeyboardInterrupt:
            runner.run(conversation.cancel(transcript.run_id))
            raise
        try:
            runner.run(_shown(show, conversation.answer(transcript, response)))
        except (RunNotWaiting, ApprovalInvalid) as error:
            _complain(console, error)
            runner.run(_shown(show, conversation.watch(transcript)))
        except ServiceError as error:  # asked again, unless the answer was taken and only the stream broke
            _complain(console, error)
    show.ended(transcript)


def ask_person(console: Console, asked: run_event_pb2.RunApprovalRequired) -> Response:
    """What the person at the terminal answers.

    Raises:
        EOFError, KeyboardInterrupt: nothing.
    """
    if reason_of(asked) == "CLIENT_TOOL":
        return _ask_result(console)
    question = "Run it once more?" if reason_of(asked) == "OUTCOME_UNKNOWN" else "Run it?"
    while True:
        said = console.input(f"[bold]{question} y/n>[/bold] ").strip().lower()
        if said in {"y", "yes"}:
            return run_pb2.Approve()
        if said in {"n", "no"}:
            return run_pb2.Deny(reason=console.input("[bold]Why not? (nothing: no reason)>[/bold] ").strip())


def _ask_result(console: Console) -> Response:
    while True:
        said = console.input("[bold]Its result, as JSON (nothing: it was not run)>[/bold] ").strip()
        if not said:
            return run_pb2.Deny(reason=console.input("[bold]Why not? (nothing: no reason)>[/bold] ").strip())
        try:
            json.loads(said)
        except (ValueError, RecursionError):
            console.print('That is no JSON. A text is: "like this"', style="yellow", markup=False)
            continue
        return run_pb2.ClientToolResult(result_json=said)


async def _shown(show: Show, events: AsyncGenerator[run_event_pb2.RunEvent]) -> None:
    async with aclosing(events):
        async for event in events:
            show.event(event)


def _complain(console: Console, error: ServiceError) -> None:
    console.print(f"[red]{escape(error.message)}[/red] ({error.reason})")
