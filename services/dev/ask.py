"""`myriad ask`: one question, one answer."""

from contextlib import aclosing

from rich.console import Console

from services.dev.conversation import Conversation, Transcript
from services.dev.edge import Edge, orchestrator_at
from services.dev.show import Show, print_json


async def ask(
    console: Console,
    edge: Edge,
    text: str,
    *,
    agent: str | None,
    session_id: str | None,
    as_json: bool,
) -> int:
    """Asks, and prints the answer: while it comes, or as one JSON object.

    Args:
        console: Where to print.
        edge: Envoy, and who asks.
        text: What is asked.
        agent: Whom. None: the agent of the session.
        session_id: The session to go on with. None: a new one.
        as_json: One object instead of text for a person.

    Returns:
        Exit status: 0 when the run completed.

    Raises:
        ServiceError: the turn was refused.
    """
    show, transcript = Show(console), Transcript()
    async with orchestrator_at(edge) as client:
        conversation = await Conversation.begin(client, agent=agent, session_id=session_id)
        async with aclosing(conversation.say(text)) as events:
            async for event in events:
                transcript.add(event)
                if not as_json:
                    show.event(event)
    if as_json:
        print_json(console, {**transcript.to_dict(), "session_id": conversation.session_id})
    else:
        show.ended(transcript)
        console.print(f"session {conversation.session_id}", style="dim", highlight=False)
    return 0 if transcript.state == "completed" else 1
