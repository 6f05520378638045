from datetime import UTC, datetime

import pytest

from myriad.retrieval.v1 import retrieval_pb2 as pb
from services.kit.call import Call, Principal, enter
from services.kit.errors import CollectionNotFound, DocumentNotFound, InvalidArgument
from services.retrieval.adapters.inmemory import InMemoryDocumentStore, InMemoryEmbedder
from services.retrieval.core.collections import Collections
from services.retrieval.core.documents import Documents
from services.retrieval.core.search import Search
from services.retrieval.servicer import RetrievalServicer

WHEN = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
TEXT = "A refund takes 30 days.\n"


def act_as(user: str, tenant: str = "acme") -> None:
    enter(Call("/test", {}, None, "inproc", principal=Principal(tenant, user)))


@pytest.fixture
async def servicer() -> RetrievalServicer:
    store, embedder = InMemoryDocumentStore(), InMemoryEmbedder(384)
    collections = Collections(store, allowed=10, ttl=1.0)
    documents = Documents(collections, store, embedder, batch=32)
    search = Search(collections, store, embedder, dimension=384)
    return RetrievalServicer(collections, documents, search, clock=lambda: WHEN)


async def make(
    servicer: RetrievalServicer, name: str = "faq", scope: "pb.Scope" = pb.SCOPE_UNSPECIFIED
) -> pb.Collection:
    wanted = pb.Collection(name=name, scope=scope, description="Answers")
    return (await servicer.CreateCollection(pb.CreateCollectionRequest(collection=wanted), None)).collection


async def write(servicer: RetrievalServicer, *documents: pb.Document, collection: str = "faq") -> int:
    request = pb.UpsertDocumentsRequest(collection=collection, documents=documents)
    return (await servicer.UpsertDocuments(request, None)).chunk_count


async def test_collections_are_made_listed_and_deleted(servicer: RetrievalServicer) -> None:
    act_as("ann")
    made = [await make(servicer, "notes", pb.SCOPE_USER), await make(servicer)]
    assert [each.scope for each in made] == [pb.SCOPE_USER, pb.SCOPE_TENANT]
    listed = await servicer.ListCollections(pb.ListCollectionsRequest(), None)
    assert list(listed.collections) == [made[1], made[0]]
    await servicer.DeleteCollection(pb.DeleteCollectionRequest(collection="faq"), None)
    with pytest.raises(CollectionNotFound):
        await servicer.DeleteCollection(pb.DeleteCollectionRequest(collection="faq"), None)


async def test_a_document_is_written_read_and_deleted(servicer: RetrievalServicer) -> None:
    act_as("ann")
    await make(servicer)
    written = pb.Document(document_id="returns", title="Returns", text=TEXT, metadata={"lang": "en"})
    assert await write(servicer, written) == 1
    reading = pb.GetDocumentRequest(collection="faq", document_id="returns")
    found = (await servicer.GetDocument(reading, None)).document
    assert found.update_time.ToDatetime(UTC) == WHEN
    found.ClearField("update_time")
    assert found == written
    await servicer.DeleteDocuments(pb.DeleteDocumentsRequest(collection="faq", document_ids=["returns"] * 2), None)
    with pytest.raises(DocumentNotFound):
        await servicer.GetDocument(reading, None)


async def test_a_search_answers_with_citations(servicer: RetrievalServicer) -> None:
    act_as("ann")
    await make(servicer)
    await write(servicer, pb.Document(document_id="returns", title="Returns", text=f"  {TEXT}"))
    (hit,) = (await servicer.Search(pb.SearchRequest(collections=["faq"], query="refund"), None)).hits
    assert (hit.collection, hit.document_id, hit.title, hit.chunk_id) == ("faq", "returns", "Returns", "0")
    assert (hit.start, hit.end, hit.text) == (2, 25, TEXT.strip())
    assert hit.score == pytest.approx(2 / 61)


async def test_search_settings_reach_the_search(servicer: RetrievalServicer) -> None:
    act_as("ann")
    await make(servicer)
    documents = [pb.Document(document_id=f"d{i}", text=TEXT, metadata={"n": str(i % 2)}) for i in range(9)]
    await write(servicer, *documents)
    (vector,) = await InMemoryEmbedder(384).embed([TEXT])

    async def found(**settings: object) -> int:
        request = pb.SearchRequest(collections=["faq"], **{"query": "refund", "top_k": 100, **settings})  # type: ignore[arg-type]
        return len((await servicer.Search(request, None)).hits)

    assert await found() == 9
    assert await found(top_k=0) == 5
    assert await found(filter={"n": "1"}) == 4
    assert await found(query="warranty", mode=pb.SEARCH_MODE_SPARSE) == 0
    assert await found(query="", embedding=vector, mode=pb.SEARCH_MODE_DENSE, min_score=0.99) == 9
    assert await found(query="warranty", mode=pb.SEARCH_MODE_DENSE, min_score=0.99) == 0


async def test_a_users_documents_are_not_anothers(servicer: RetrievalServicer) -> None:
    act_as("ann")
    await make(servicer, scope=pb.SCOPE_USER)
    await write(servicer, pb.Document(document_id="note", text=TEXT))
    for stranger in (("bob", "acme"), ("ann", "other")):
        act_as(*stranger)
        if stranger == ("ann", "other"):
            await make(servicer, scope=pb.SCOPE_USER)
        with pytest.raises(DocumentNotFound):
            await servicer.GetDocument(pb.GetDocumentRequest(collection="faq", document_id="note"), None)
        assert not (await servicer.Search(pb.SearchRequest(collections=["faq"], query="refund"), None)).hits


async def test_documents_with_one_id_are_refused(servicer: RetrievalServicer) -> None:
    act_as("ann")
    await make(servicer)
    with pytest.raises(InvalidArgument, match=r"documents\[1\]\.document_id"):
        await write(servicer, *[pb.Document(document_id="d", text=TEXT)] * 2)
