"""The analysis of one utterance."""

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.kit.call import Principal
from services.kit.errors import InvalidArgument
from services.nlu.agent import Agent
from services.nlu.core import complexity
from services.nlu.core.complexity import Complexity
from services.nlu.core.entities.extract import Extractor
from services.nlu.core.entities.spans import Entity
from services.nlu.core.entities.vocabulary import Vocabulary
from services.nlu.core.language import Languages
from services.nlu.core.workers import Workers
from services.nlu.intents.artefact import digest
from services.nlu.intents.head import IntentHead, RankedIntent, Ranking
from services.nlu.lru import Lru
from services.nlu.ports import Agents, Clock, Embedder, IntentModels

_PREPARED = 512


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was understood."""

    intents: tuple[RankedIntent, ...]
    out_of_scope: bool
    entities: Sequence[Entity]
    complexity: Complexity
    language: str
    embedding: "array[float]"
    model_version: str


@dataclass(frozen=True, slots=True)
class Readers:
    """What reads a text without asking another service."""

    extractor: Extractor
    languages: Languages
    workers: Workers
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a revision of an agent needs for its utterances."""

    digest: str
    vocabulary: Vocabulary
    tools: frozenset[str]
    """Names of the intents that call a tool."""


class Analyzer:
    """Analyses utterances."""

    def __init__(
        self, agents: Agents, embedder: Embedder, models: IntentModels, readers: Readers, embedder_name: str
    ) -> None:
        """Works with these; `embedder_name` is part of the digest that names an intent model."""
        self._agents = agents
        self._embedder = embedder
        self._models = models
        self._readers = readers
        self._embedder_name = embedder_name
        self._prepared: Lru[tuple[str, str, int], _Prepared] = Lru(_PREPARED)

    async def analyze(self, principal: Principal, agent_name: str, revision: int, text: str) -> Analysis:
        """Analyses one utterance; it is embedded once, while entities and language are read.

        Args:
            principal: On whose behalf.
            agent_name: The agent it was said to.
            revision: From 1; 0 is the latest.
            text: The utterance.

        Raises:
            InvalidArgument: the text is blank.
            AgentNotFound: there is no such agent.
            ModelUnavailable: the embedder does not answer.
        """
        if not text.strip():
            raise InvalidArgument("text: must not be blank", fields={"text": "must not be blank"})
        agent = await self._agents.get(principal, agent_name, revision)
        prepared = await self._prepare(principal, agent)
        embedding = asyncio.create_task(self._embedder.embed([text]))
        try:
            await asyncio.sleep(0)  # the request leaves before the work here begins
            entities = await self._entities(text, prepared.vocabulary)
            language = self._readers.languages.detect(text)
            head = await self._head(principal, agent, prepared)
            vector = (await embedding)[0]
        finally:
            embedding.cancel()
            await asyncio.gather(embedding, return_exceptions=True)
        head = self._fitting(head, agent, vector)
        ranking = head.rank(vector, text) if head else Ranking((), False)
        return Analysis(
            intents=ranking.intents,
            out_of_scope=ranking.out_of_scope,
            entities=entities,
            complexity=complexity.assess(
                text, bound=_bound(ranking, prepared.tools), entity_types={entity.type for entity in entities}
            ),
            language=language,
            embedding=vector,
            model_version=head.version if head else "",
        )

    async def _prepare(self, principal: Principal, agent: Agent) -> _Prepared:
        key = (principal.tenant, agent.name, agent.revision)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = await self._readers.workers.run(_prepare, agent, self._embedder_name)
            if prepared.vocabulary.problems:
                problems = prepared.vocabulary.problems
                _log().warning("entity patterns are not used", agent=agent.name, problems=problems)
            self._prepared.put(key, prepared)
        return prepared

    async def _entities(self, text: str, vocabulary: Vocabulary) -> list[Entity]:
        extractor, now = self._readers.extractor, self._readers.clock()
        if extractor.is_cheap(text, vocabulary):
            return extractor.find(text, vocabulary, now)
        return await self._readers.workers.run(extractor.find, text, vocabulary, now)

    async def _head(self, principal: Principal, agent: Agent, prepared: _Prepared) -> IntentHead | None:
        return await self._models.load(principal, agent.name, prepared.digest) if agent.intents else None

    def _fitting(self, head: IntentHead | None, agent: Agent, vector: "array[float]") -> IntentHead | None:
        """No head, when the embedder behind the name now makes vectors of another width."""
        if head and head.width != len(vector):
            _log().warning("intent model is of another width", agent=agent.name, model=head.width, text=len(vector))
            return None
        return head


def _prepare(agent: Agent, embedder_name: str) -> _Prepared:
    return _Prepared(
        digest=digest(agent.intents, embedder_name),
        vocabulary=Vocabulary(agent.entities),
        tools=frozenset(intent.name for intent in agent.intents if intent.tool),
    )


def _bound(ranking: Ranking, tools: frozenset[str]) -> float:
    """Confidence that the intent is one that calls a tool."""
    if ranking.out_of_scope or not ranking.intents or ranking.intents[0].name not in tools:
        return 0.0
    return ranking.intents[0].confidence


def _log() -> structlog.stdlib.BoundLogger:
    log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
    return log
