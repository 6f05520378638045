"""What core needs from outside."""

from array import array
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.kit.call import Principal
from services.nlu.agent import Agent
from services.nlu.intents.head import IntentHead


class Clock(Protocol):
    """Tells the time people mean when they write `today`."""

    def __call__(self) -> datetime:
        """The time now, with a zone."""
        ...


class Agents(Protocol):
    """Agents as their builders defined them."""

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """One revision of an agent of the principal's tenant.

        Args:
            principal: On whose behalf.
            name: The agent.
            revision: From 1; 0 is the latest.

        Raises:
            AgentNotFound: there is none.
        """
        ...


class Embedder(Protocol):
    """Turns texts into vectors in which like meanings are near."""

    async def embed(self, texts: Sequence[str]) -> "list[array[float]]":
        """Unit vectors (float32), one per text, in their order, all of one width. No text is blank.

        Raises:
            ModelUnavailable: the model does not answer.
        """
        ...


class IntentModels(Protocol):
    """Trained intent heads, by what they were trained from."""

    async def load(self, principal: Principal, agent: str, digest: str) -> IntentHead | None:
        """The head of that digest for an agent of the principal's tenant. None: it is not there, or cannot be read.

        One that appears is found within 2 s.
        """
        ...
