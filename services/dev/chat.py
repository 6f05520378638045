"""`myriad chat`: a conversation on the terminal."""

import asyncio
from contextlib import AsyncExitStack, aclosing

from rich.console import Console
from rich.markup import escape

from services.dev.conversation import Conversation, Transcript
from services.dev.edge import Edge, orchestrator_at
from services.dev.show import Show
from services.kit.errors import ServiceError


def chat(console: Console, edge: Edge, *, agent: str | None, session_id: str | None, again: str) -> None:
    """Talks until the person leaves: Ctrl-D, Ctrl-C at the prompt, or `/quit`. Ctrl-C in an answer stops it.

    Args:
        console: The terminal.
        edge: Envoy, and who talks.
        agent: With whom. None: with the agent of the session.
        session_id: The session to go on with. None: a new one.
        again: The command that takes up a session; the session's id is put after it.

    Raises:
        ServiceError: the conversation could not be opened.
    """
    # The runner's loop stands still while the person types: Ctrl-C then is the prompt's, and later the answer's.
    with asyncio.Runner() as runner:
        closing = AsyncExitStack()
        try:
            conversation = runner.run(_begin(closing, edge, agent, session_id))
            console.print(f"{conversation.agent} listens. Ctrl-C stops an answer, Ctrl-D leaves.", style="dim")
            _talk(console, runner, conversation)
            go_on = f"\nGo on with: {again} {conversation.session_id}"
            console.print(go_on, style="dim", markup=False, highlight=False, soft_wrap=True)
        finally:
            runner.run(closing.aclose())


async def _begin(closing: AsyncExitStack, edge: Edge, agent: str | None, session_id: str | None) -> Conversation:
    client = await closing.enter_async_context(orchestrator_at(edge))
    return await Conversation.begin(client, agent=agent, session_id=session_id)


def _talk(console: Console, runner: asyncio.Runner, conversation: Conversation) -> None:
    while True:
        try:
            text = console.input("\n[bold]you>[/bold] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if text == "/quit":
            return
        if not text:
            continue
        try:
            runner.run(_turn(console, conversation, text))
        except KeyboardInterrupt:
            console.print("\nstopped", style="yellow")
        except ServiceError as error:
            console.print(f"[red]{escape(error.message)}[/red] ({error.reason})")


async def _turn(console: Console, conversation: Conversation, text: str) -> None:
    show, transcript = Show(console), Transcript()
    console.print(f"[bold]{conversation.agent}>[/bold] ", end="")
    async with aclosing(conversation.say(text)) as events:
        async for event in events:
            transcript.add(event)
            show.event(event)
    show.ended(transcript)
