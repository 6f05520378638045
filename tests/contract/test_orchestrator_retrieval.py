"""One list of behaviours for the orchestrator's `Retrieval`: in memory, and behind retrieval on its own fakes."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import pytest

from myriad.retrieval.v1 import retrieval_pb2_grpc
from services.kit.errors import CollectionNotFound, DeadlineExceeded, ServiceUnavailable, VectorIndexUnavailable
from services.orchestrator.adapters.inmemory_services import InMemoryRetrieval
from services.orchestrator.adapters.retrieval import RetrievalClient
from services.orchestrator.domain.agent import Knowledge
from services.orchestrator.domain.turn import Citation
from services.orchestrator.ports.services import Retrieval
from services.retrieval.adapters.inmemory import InMemoryDocumentStore, InMemoryEmbedder
from services.retrieval.core.collections import Collections
from services.retrieval.core.documents import Documents
from services.retrieval.core.search import Search
from services.retrieval.domain import Collection, Document, Scope
from services.retrieval.servicer import RetrievalServicer
from tests.support.orchestrator import ALICE, EVE, Hanging, act_as, served

RETURNS = "You may return an order within 30 days."
SHIPPING = "Shipping takes two days."
GIFTS = "Gift cards never expire."
SECRET = "Returns are secret here."
HELP = Knowledge(("help",), 3, 0.0)
QUESTION = "may I return an order?"


class CountingEmbedder(InMemoryEmbedder):
    """Keeps what it embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    async def embed(self, texts):
        self.texts += texts
        return await super().embed(texts)


@dataclass
class World:
    """Facts, and whether a search had its text embedded anew."""

    retrieval: Retrieval
    embedder: CountingEmbedder | None


async def real() -> World:
    store, embedder = InMemoryDocumentStore(), CountingEmbedder()
    collections = Collections(store, allowed=10, ttl=1.0)
    documents = Documents(collections, store, embedder, batch=8)
    now = datetime.now(UTC)
    for name, texts in (("help", (RETURNS, SHIPPING, GIFTS)), ("internal", (SECRET,))):
        await collections.create(ALICE, Collection(name, Scope.TENANT, ""))
        made = [Document(f"d{n}", f"Title {n}", text, {}, now) for n, text in enumerate(texts)]
        await documents.upsert(ALICE, name, made)
    embedder.texts.clear()
    search = Search(collections, store, embedder, dimension=384)
    return World(client_of(RetrievalServicer(collections, documents, search, lambda: now), 2.0), embedder)


def fake() -> World:
    made = InMemoryRetrieval(["help", "internal"])
    made.facts = [
        Citation("help", f"d{n}", f"Title {n}", "0", 0, len(text), text, 0.5)
        for n, text in enumerate((RETURNS, SHIPPING, GIFTS))
    ]
    made.facts += [Citation("internal", "d0", "Title 0", "0", 0, len(SECRET), SECRET, 0.5)]
    return World(made, None)


def client_of(servicer: object, timeout_s: float) -> RetrievalClient:
    add = retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server
    return RetrievalClient(served("retrieval", partial(add, servicer)), timeout_s)


@pytest.fixture(params=["inmemory", "retrieval"])
async def world(request) -> World:
    act_as(ALICE)
    return fake() if request.param == "inmemory" else await real()


async def test_a_collection_that_is_not_there_is_not_found(world):
    with pytest.raises(CollectionNotFound):
        await world.retrieval.search(replace(HELP, collections=("help", "nothing")), QUESTION, ())


@pytest.mark.parametrize(("text", "expected"), [(QUESTION, RETURNS), ("how long is shipping", SHIPPING)])
async def test_the_fact_that_matches_best_comes_first(world, text, expected):
    found = await world.retrieval.search(HELP, text, ())
    assert isinstance(found, tuple)
    assert found[0].text == expected


async def test_a_fact_says_where_it_stands(world):
    best = (await world.retrieval.search(HELP, QUESTION, ()))[0]
    assert (best.collection, best.document_id, best.title) == ("help", "d0", "Title 0")
    assert best.text == RETURNS[best.start : best.end]
    assert best.chunk_id
    assert best.score > 0


@pytest.mark.parametrize("top_k", [1, 2])
async def test_no_more_facts_come_than_were_asked_for(world, top_k):
    assert len(await world.retrieval.search(replace(HELP, top_k=top_k), "order shipping gift cards", ())) == top_k


async def test_facts_that_match_too_badly_are_left_out(world):
    assert await world.retrieval.search(replace(HELP, min_score=0.99), QUESTION, ()) == ()


async def test_only_the_named_collections_are_searched(world):
    found = await world.retrieval.search(HELP, "returns are secret", ())
    assert {fact.collection for fact in found} <= {"help"}
    found = await world.retrieval.search(replace(HELP, collections=("help", "internal")), "returns are secret", ())
    assert found[0].text == SECRET


async def test_an_embedding_that_is_known_gives_the_same_facts_and_is_not_made_again(world):
    (embedding,) = await InMemoryEmbedder().embed([QUESTION])
    without = await world.retrieval.search(HELP, QUESTION, ())
    made = list(world.embedder.texts) if world.embedder else []
    assert await world.retrieval.search(HELP, QUESTION, embedding) == without
    if world.embedder:
        assert world.embedder.texts == made == [QUESTION]


async def test_the_fake_keeps_the_embeddings_and_fails_as_it_was_told():
    made = InMemoryRetrieval()
    made.error = VectorIndexUnavailable("gone")
    with pytest.raises(VectorIndexUnavailable):
        await made.search(HELP, QUESTION, [0.6, 0.8])
    assert made.embeddings == [[0.6, 0.8]]


async def test_another_tenants_collection_is_not_found():
    world = await real()
    act_as(EVE)
    with pytest.raises(CollectionNotFound):
        await world.retrieval.search(HELP, QUESTION, ())


async def test_retrieval_that_nobody_serves_is_unavailable():
    act_as(ALICE)
    with pytest.raises(ServiceUnavailable, match="retrieval does not answer"):
        await RetrievalClient(served("retrieval"), 1.0).search(HELP, QUESTION, ())


async def test_retrieval_that_does_not_answer_in_time_is_given_up():
    hanging = Hanging()
    act_as(ALICE)
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(10):
            await client_of(hanging, 0.05).search(HELP, QUESTION, ())
    assert hanging.cut.is_set()
