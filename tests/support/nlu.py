"""An analyzer over fakes, and heads without scikit-learn's help."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import numpy as np

from services.kit.call import Principal
from services.nlu.adapters.inmemory import InMemoryAgents, InMemoryEmbedder, InMemoryIntentModels
from services.nlu.agent import Agent
from services.nlu.core.analyze import Analyzer, Readers
from services.nlu.core.entities.extract import Extractor
from services.nlu.core.language import Languages
from services.nlu.core.workers import Workers
from services.nlu.intents.artefact import digest
from services.nlu.intents.features import Lexicon
from services.nlu.intents.head import IntentHead, LexicalPart
from services.nlu.ports import Embedder, IntentModels

NOW = datetime(2025, 3, 5, 10, 0, tzinfo=UTC)
"""A Wednesday."""

EMBEDDER = "embedder"
ANN = Principal("acme", "ann")

AGENT_FILE = """
name: aura
persona: You help customers.
intents:
  - name: order_status
    examples: [where is my order, track my parcel, has my order shipped, where is the parcel now]
    tool: {name: get_order, arguments: {order_id: order_id}}
  - name: return_order
    examples: [I want to return my order, send this back, return an item, how do I send an item back]
  - name: greeting
    examples: [hello there, good morning, hi to you, hello and good morning]
entities:
  - name: order_id
    patterns: ['\\b\\d{4}\\b']
tools:
  - name: get_order
    description: Looks an order up.
    side_effect: SIDE_EFFECT_READ
    builtin: {function: get_order}
"""
"""Three intents, enough to be trained with."""


@cache
def languages() -> Languages:
    """Read once: it takes a second."""
    return Languages()


def empty_part(intents: int) -> LexicalPart:
    """No n-grams."""
    lexicon = Lexicon(np.zeros(0, np.uint32), np.zeros(0, np.float32))
    return LexicalPart(lexicon, np.zeros((0, intents), np.float16))


async def centroid_head(agent: Agent, embedder_name: str = EMBEDDER) -> IntentHead:
    """A head that ranks by similarity to the mean of the examples."""
    embedder, rows = InMemoryEmbedder(), []
    for intent in agent.intents:
        mean = np.array(await embedder.embed(intent.examples), np.float32).mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    centroids = np.array(rows, np.float32)
    return IntentHead(
        version=digest(agent.intents, embedder_name),
        names=tuple(intent.name for intent in agent.intents),
        weights=centroids * np.float32(20),
        bias=np.zeros(len(rows), np.float32),
        words=empty_part(len(rows)),
        chars=empty_part(len(rows)),
        centroids=centroids,
        min_similarity=0.3,
        min_confidence=0.0,
    )


def renamed(head: IntentHead, version: str) -> IntentHead:
    """The same head under another version."""
    return replace(head, version=version)


def analyzer(
    agents: InMemoryAgents,
    workers: Workers,
    embedder: Embedder | None = None,
    models: IntentModels | None = None,
) -> Analyzer:
    """An analyzer whose clock stands at `NOW`."""
    readers = Readers(Extractor(""), languages(), workers, lambda: NOW)
    return Analyzer(agents, embedder or InMemoryEmbedder(), models or InMemoryIntentModels(), readers, EMBEDDER)
