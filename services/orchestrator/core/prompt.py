"""What the model is told: persona, facts, the conversation so far, and what the user said.

Facts are put as an earlier part of the conversation, each an answer that was given, the best one last and then once
more in one sentence. A small model uses them so more often than from a list in its instructions, and it stops where a
sentence ends: docs/adr/0010 has the figures.
"""

import re
from collections.abc import Sequence

from services.orchestrator.domain.agent import Agent, Message, Role
from services.orchestrator.domain.turn import Citation


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
        messages += _exchange(f"Please tell me about: {_topic(fact)}.", _plain(fact))
    if facts:
        messages += _exchange(f"{_topic(facts[0])}, in one sentence?", _first_sentence(_plain(facts[0])))
    return [*messages, *history, Message(Role.USER, text)]


def _exchange(question: str, answer: str) -> list[Message]:
    return [Message(Role.USER, question), Message(Role.ASSISTANT, answer)]


def _topic(fact: Citation) -> str:
    return fact.title or fact.document_id


def _plain(fact: Citation) -> str:
    """A fact on one line, without the headings of its document."""
    return " ".join(" ".join(line for line in fact.text.splitlines() if not line.startswith("#")).split())


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
