"""What the model is told: persona and facts, the conversation so far, and what the user said."""

from collections.abc import Sequence

from services.orchestrator.domain import Agent, Citation, Message, Role


def opening(agent: Agent, facts: Sequence[Citation], history: Sequence[Message], text: str) -> list[Message]:
    """The messages of a turn's first call of the model.

    Args:
        agent: Who speaks.
        facts: What was found, best first. They are data: the persona says what to do with them.
        history: The conversation so far, oldest first.
        text: What the user said.
    """
    system = agent.persona.strip()
    if facts:
        system += "\n\nFacts:\n" + "\n".join(f"- {_one_line(fact)}" for fact in facts)
    return [Message(Role.SYSTEM, system), *history, Message(Role.USER, text)]


def _one_line(fact: Citation) -> str:
    return " ".join(fact.text.split())
