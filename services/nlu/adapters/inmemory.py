"""Fakes of the ports, for tests and for trying the service without Triton and memory."""

import math
import re
from array import array
from collections.abc import Sequence
from zlib import crc32

from services.kit.call import Principal
from services.kit.errors import AgentNotFound
from services.nlu.agent import Agent
from services.nlu.intents.head import IntentHead

WIDTH = 384
_PLACES_PER_WORD = 4


class InMemoryEmbedder:
    """A bag of words as a unit vector: texts that share words are near, and the same text is always the same vector."""

    async def embed(self, texts: Sequence[str]) -> "list[array[float]]":
        """Unit vectors, one per text."""
        return [_bag_of_words(text) for text in texts]


class InMemoryAgents:
    """Agents of each tenant, by name and revision."""

    def __init__(self) -> None:
        """Holds none."""
        self._agents: dict[tuple[str, str], dict[int, Agent]] = {}

    def put(self, principal: Principal, agent: Agent) -> None:
        """Adds a revision."""
        self._agents.setdefault((principal.tenant, agent.name), {})[agent.revision] = agent

    async def get(self, principal: Principal, name: str, revision: int) -> Agent:
        """One revision of an agent; 0 is the latest.

        Raises:
            AgentNotFound: there is none.
        """
        revisions = self._agents.get((principal.tenant, name), {})
        found = revisions.get(revision or max(revisions, default=0))
        if found is None:
            raise AgentNotFound(f"there is no agent {name!r}, or no revision {revision} of it")
        return found


class InMemoryIntentModels:
    """Heads of each tenant's agents."""

    def __init__(self) -> None:
        """Holds none."""
        self._heads: dict[tuple[str, str, str], IntentHead] = {}

    async def load(self, principal: Principal, agent: str, digest: str) -> IntentHead | None:
        """The head of that digest, or None."""
        return self._heads.get((principal.tenant, agent, digest))

    async def save(self, principal: Principal, agent: str, head: IntentHead) -> None:
        """Keeps a head under its version."""
        self._heads[principal.tenant, agent, head.version] = head


def _bag_of_words(text: str) -> "array[float]":
    vector = array("f", bytes(4 * WIDTH))
    for word in re.findall(r"\w+|[^\w\s]", text.casefold()) or [text]:
        for place in range(_PLACES_PER_WORD):
            hashed = crc32(f"{place} {word}".encode("utf-8", "surrogatepass"))
            vector[hashed % WIDTH] += 1.0 if hashed & 0x10000 else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    if length == 0:
        vector[0] = length = 1.0
    return array("f", (value / length for value in vector))
