"""What the model is told: persona, facts, the conversation so far, and what the user said.

Facts are put as an earlier part of the conversation, each an answer that was given, the best one last. A small model
uses them so more often than from a list in its instructions: docs/adr/0010 has the figures.
"""

from collections.abc import Sequence

from services.orchestrator.domain import Agent, Citation, Message, Role


def opening(agent: Agent, facts: Sequence[Citation], history: Sequence[Message], text: str) -> list[Message]:
    """The messages of a turn's first call of the model.

    Args:
        agent: Who speaks.
        facts: What was found, best first.
        history: The conversation so far, oldest first.
        text: What the user said.
    """
    messages = [Message(Role.SYSTEM, agent.persona.strip())]
    for fact in reversed(facts):
        messages += [
            Message(Role.USER, f"Please tell me about: {_topic(fact)}."),
            Message(Role.ASSISTANT, _plain(fact)),
        ]
    return [*messages, *history, Message(Role.USER, text)]


def _topic(fact: Citation) -> str:
    return fact.title or fact.document_id


def _plain(fact: Citation) -> str:
    """A fact on one line, without the headings of its document."""
    return " ".join(" ".join(line for line in fact.text.splitlines() if not line.startswith("#")).split())
