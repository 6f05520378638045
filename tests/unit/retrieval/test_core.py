import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.kit.call import Principal
from services.kit.errors import (
    CollectionExists,
    CollectionNotFound,
    DocumentNotFound,
    InvalidArgument,
    ModelUnavailable,
    ResourceExhausted,
)
from services.retrieval.adapters.inmemory import InMemoryDocumentStore, InMemoryEmbedder
from services.retrieval.core import spaces
from services.retrieval.core.chunking import MOST_CODE_POINTS, MOST_TOKENS, Chunker
from services.retrieval.core.collections import Collections
from services.retrieval.core.documents import Documents
from services.retrieval.core.search import Question, Search
from services.retrieval.domain import Collection, Document, Mode, Scope

ANN = Principal("acme", "ann")
WHEN = datetime(2026, 3, 1, tzinfo=UTC)
WIDTH = 64


class CountingStore(InMemoryDocumentStore):
    """Counts how often collections are looked up, and can let a look-up wait."""

    def __init__(self) -> None:
        super().__init__()
        self.finds = 0
        self.gate: asyncio.Event | None = None

    async def find(self, principal: Principal, names: Sequence[str]) -> Sequence[Collection]:
        self.finds += 1
        found = await super().find(principal, names)
        if self.gate is not None:
            await self.gate.wait()
        return found


class CountingEmbedder(InMemoryEmbedder):
    """Keeps the batches it was asked for; dead when told."""

    def __init__(self) -> None:
        super().__init__(WIDTH)
        self.batches: list[list[str]] = []
        self.dead = False

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        if self.dead:
            raise ModelUnavailable("dead")
        self.batches.append(list(texts))
        return await super().embed(texts)


class Service:
    """The core over fakes."""

    def __init__(self, allowed: int = 10) -> None:
        self.now = 100.0
        self.store = CountingStore()
        self.embedder = CountingEmbedder()
        self.collections = Collections(self.store, allowed=allowed, ttl=1.0, monotonic=lambda: self.now)
        self.documents = Documents(self.collections, self.store, self.embedder, batch=4)
        self.search = Search(self.collections, self.store, self.embedder, dimension=WIDTH)

    async def make(self, name: str = "docs", scope: Scope = Scope.TENANT) -> Collection:
        return await self.collections.create(ANN, Collection(name, scope, ""))

    async def find(self, text: str = "refund", **question: object) -> list[str]:
        asked = Question(**{"collections": ["docs"], "text": text} | question)  # type: ignore[arg-type]
        return [hit.document_id for hit in await self.search.search(ANN, asked)]


@pytest.fixture
def service() -> Service:
    return Service()


def document(document_id: str, text: str = "refund", title: str = "", **metadata: str) -> Document:
    return Document(document_id, title, text, metadata, WHEN)


def sentences(count: int) -> str:
    return " ".join(f"Sentence number {i} says that a parcel may be returned within thirty days." for i in range(count))


class TestChunking:
    @settings(max_examples=60, deadline=None)
    @given(
        st.text(max_size=3000)
        | st.lists(st.sampled_from(["# a\n", "\n\n", "word ", "é", "日", ". ", "- x\n", "`", "|"]), max_size=900).map(
            "".join
        )
    )
    def test_chunks_are_the_text_and_their_offsets_are_true(self, text: str) -> None:
        chunks = Chunker().split(text)
        assert "".join(chunk.text for chunk in chunks) == text
        assert all(text[chunk.start : chunk.start + len(chunk.text)] == chunk.text for chunk in chunks)

    def test_a_short_text_is_one_chunk(self) -> None:
        assert [chunk.text for chunk in Chunker().split("Returns take 30 days.\n")] == ["Returns take 30 days.\n"]

    def test_chunks_end_where_sentences_end(self) -> None:
        chunks = Chunker().split(sentences(60))
        assert len(chunks) > 3
        assert all(chunk.text.rstrip().endswith(".") for chunk in chunks)
        assert all(chunk.text.startswith("Sentence") for chunk in chunks)

    def test_no_chunk_is_longer_than_the_embedder_reads(self) -> None:
        chunker = Chunker()
        for text in (sentences(200), "word " * 5000, "x" * 9000, "日本語の文章。" * 900, "a1b2c3" * 2000):
            assert max(chunker.tokens(chunk.text) for chunk in chunker.split(text)) <= MOST_TOKENS + 32

    @pytest.mark.parametrize("count", [1, 9, 10, 11, 40])
    def test_a_heading_goes_with_what_it_heads(self, count: int) -> None:
        text = f"# Returns\n\n## How long\n\n{sentences(count)}\n\n## Shipping\n\n{sentences(count)}\n"
        chunks = [chunk.text for chunk in Chunker().split(text)]
        assert chunks[0].startswith("# Returns\n\n## How long\n\nSentence number 0")
        assert next(chunk for chunk in chunks if "## Shipping" in chunk).count("## Shipping\n\nSentence number 0") == 1

    def test_a_run_of_spaces_makes_no_chunk_too_long_to_store(self) -> None:
        chunks = Chunker().split("a" + " " * 100_000 + "b")
        assert max(len(chunk.text) for chunk in chunks) <= MOST_CODE_POINTS

    def test_many_headings_make_few_chunks(self) -> None:
        assert len(Chunker().split("# a\n\nb\n\n" * 2000)) < 400


class TestCollections:
    async def test_another_description_or_scope_is_refused(self, service: Service) -> None:
        await service.make()
        for other in (Collection("docs", Scope.USER, ""), Collection("docs", Scope.TENANT, "other")):
            with pytest.raises(CollectionExists):
                await service.collections.create(ANN, other)

    async def test_making_it_again_changes_nothing(self, service: Service) -> None:
        assert await service.make() == await service.make()

    async def test_a_tenant_may_have_only_so_many(self) -> None:
        service = Service(allowed=2)
        await service.make("a")
        await service.make("b")
        with pytest.raises(ResourceExhausted, match="2 collections"):
            await service.make("c")
        await service.make("a")
        await service.collections.create(Principal("other", "ann"), Collection("c", Scope.TENANT, ""))

    async def test_deleting_an_unknown_one_is_not_found(self, service: Service) -> None:
        with pytest.raises(CollectionNotFound):
            await service.collections.delete(ANN, "docs")

    async def test_searches_do_not_ask_the_store_each_time(self, service: Service) -> None:
        await service.make()
        service.store.finds = 0
        for _ in range(5):
            await service.find()
        assert service.store.finds == 1
        service.now += 1.1
        await service.find()
        assert service.store.finds == 2

    async def test_a_deleted_collection_is_unknown_at_once(self, service: Service) -> None:
        await service.make()
        await service.find()
        await service.collections.delete(ANN, "docs")
        with pytest.raises(CollectionNotFound):
            await service.find()

    async def test_a_look_up_that_began_before_a_deletion_is_not_remembered(self, service: Service) -> None:
        await service.make()
        service.store.gate = asyncio.Event()
        slow = asyncio.create_task(service.find())
        await asyncio.sleep(0)
        gate, service.store.gate = service.store.gate, None
        await service.collections.delete(ANN, "docs")
        gate.set()
        await slow
        with pytest.raises(CollectionNotFound):
            await service.find()

    async def test_what_is_known_of_one_tenant_is_not_told_another(self, service: Service) -> None:
        await service.make()
        await service.find()
        with pytest.raises(CollectionNotFound):
            await service.search.search(Principal("other", "ann"), Question(["docs"], "refund"))


class TestDocuments:
    async def test_an_id_given_twice_is_named(self, service: Service) -> None:
        await service.make()
        with pytest.raises(InvalidArgument) as caught:
            await service.documents.upsert(ANN, "docs", [document("a"), document("b"), document("a")])
        assert caught.value.fields == {"documents[2].document_id": "is there twice"}
        assert service.embedder.batches == []

    async def test_a_blank_text_is_named(self, service: Service) -> None:
        await service.make()
        with pytest.raises(InvalidArgument) as caught:
            await service.documents.upsert(ANN, "docs", [document("a"), document("b", " \n\t")])
        assert caught.value.fields == {"documents[1].text": "must not be blank"}

    async def test_an_unknown_collection_costs_no_embedding(self, service: Service) -> None:
        with pytest.raises(CollectionNotFound):
            await service.documents.upsert(ANN, "docs", [document("a")])
        with pytest.raises(CollectionNotFound):
            await service.documents.get(ANN, "docs", "a")
        with pytest.raises(CollectionNotFound):
            await service.documents.delete(ANN, "docs", ["a"])
        assert service.embedder.batches == []

    async def test_an_unknown_document_is_not_found(self, service: Service) -> None:
        await service.make()
        with pytest.raises(DocumentNotFound):
            await service.documents.get(ANN, "docs", "a")

    async def test_chunks_are_embedded_with_their_title_in_batches(self, service: Service) -> None:
        await service.make()
        count = await service.documents.upsert(ANN, "docs", [document("a", sentences(60), "Returns"), document("b")])
        assert [len(batch) for batch in service.embedder.batches[:-1]] == [4] * (len(service.embedder.batches) - 1)
        texts = [text for batch in service.embedder.batches for text in batch]
        assert len(texts) == count
        assert all(text.startswith("Returns\n") for text in texts[:-1])
        assert texts[-1] == "refund"

    async def test_nothing_is_written_when_embedding_fails(self, service: Service) -> None:
        await service.make()
        await service.documents.upsert(ANN, "docs", [document("a", "old")])
        service.embedder.dead = True
        with pytest.raises(ModelUnavailable):
            await service.documents.upsert(ANN, "docs", [document("a", "new")])
        assert (await service.documents.get(ANN, "docs", "a")).text == "old"

    async def test_a_document_with_a_page_of_spaces_is_kept_and_its_blank_part_never_shown(
        self, service: Service
    ) -> None:
        await service.make()
        text = "refund" + " " * 20_000 + "refund"
        await service.documents.upsert(ANN, "docs", [document("a", text)])
        assert (await service.documents.get(ANN, "docs", "a")).text == text
        hits = await service.search.search(ANN, Question(["docs"], "refund", mode=Mode.DENSE, top_k=100))
        assert [hit.text for hit in hits] == ["refund", "refund"]


class TestSearch:
    @pytest.mark.parametrize(
        ("embedding", "wrong"),
        [
            ([1.0] + [0.0] * (WIDTH - 2), "must have 64 numbers, has 63"),
            ([0.0] * WIDTH, "must have length 1"),
            ([0.5] + [0.0] * (WIDTH - 1), "must have length 1"),
            ([math.nan] + [0.0] * (WIDTH - 1), "must have length 1"),
            ([math.inf] + [0.0] * (WIDTH - 1), "must have length 1"),
        ],
    )
    @pytest.mark.parametrize("mode", list(Mode))
    async def test_an_embedding_that_is_none_is_named(
        self, service: Service, embedding: list[float], wrong: str, mode: Mode
    ) -> None:
        await service.make()
        with pytest.raises(InvalidArgument) as caught:
            await service.find(embedding=embedding, mode=mode)
        assert caught.value.fields == {"embedding": wrong}

    @pytest.mark.parametrize("mode", [Mode.SPARSE, Mode.HYBRID])
    async def test_words_are_needed_where_words_are_matched(self, service: Service, mode: Mode) -> None:
        await service.make()
        (embedding,) = await service.embedder.embed(["refund"])
        for text in ("", " \n"):
            with pytest.raises(InvalidArgument) as caught:
                await service.find(text, embedding=embedding, mode=mode)
            assert caught.value.fields == {"query": "must not be blank"}

    async def test_a_blank_query_is_not_embedded(self, service: Service) -> None:
        await service.make()
        with pytest.raises(InvalidArgument, match="query"):
            await service.find(" ", mode=Mode.DENSE)

    async def test_an_unknown_collection_is_named_before_anything_is_embedded(self, service: Service) -> None:
        await service.make()
        with pytest.raises(CollectionNotFound, match="nowhere"):
            await service.find(collections=["docs", "nowhere"])
        assert service.embedder.batches == []

    async def test_with_an_embedding_nothing_is_embedded(self, service: Service) -> None:
        await service.make()
        await service.documents.upsert(ANN, "docs", [document("a")])
        (embedding,) = await InMemoryEmbedder(WIDTH).embed(["refund"])
        service.embedder.dead = True
        assert await service.find(embedding=embedding) == ["a"]
        assert await service.find("", embedding=embedding, mode=Mode.DENSE) == ["a"]
        assert await service.find(mode=Mode.SPARSE) == ["a"]
        with pytest.raises(ModelUnavailable):
            await service.find()

    async def test_five_chunks_are_found_when_no_number_is_said(self, service: Service) -> None:
        await service.make()
        await service.documents.upsert(ANN, "docs", [document(f"d{i}") for i in range(9)])
        assert len(await service.find()) == 5
        assert len(await service.find(top_k=7)) == 7

    async def test_a_citation_is_its_span_without_the_spaces_around_it(self, service: Service) -> None:
        await service.make()
        text = f"\n\n  {sentences(40)}\n\n# Größe 日本\n\n{sentences(20)} \n"
        await service.documents.upsert(ANN, "docs", [document("a", text, "Title")])
        hits = await service.search.search(ANN, Question(["docs"], "parcel", top_k=100))
        assert len(hits) > 3
        for hit in hits:
            assert text[hit.start : hit.start + len(hit.text)] == hit.text == hit.text.strip()

    async def test_only_documents_with_the_metadata_are_found(self, service: Service) -> None:
        await service.make()
        await service.documents.upsert(ANN, "docs", [document("a", lang="en"), document("b", lang="de")])
        assert await service.find(metadata={"lang": "de"}) == ["b"]


class TestSpaces:
    def test_parts_that_read_alike_when_joined_make_different_keys(self) -> None:
        wheres = [
            (Principal("a", "bc"), Collection("docs", Scope.USER, "")),
            (Principal("ab", "c"), Collection("docs", Scope.USER, "")),
            (Principal("ado", "bc"), Collection("cs", Scope.USER, "")),
            (Principal("a", "bc"), Collection("docs", Scope.TENANT, "")),
            (Principal("a", "tenant"), Collection("docs", Scope.USER, "")),
            (Principal("a", ""), Collection("docs", Scope.USER, "")),
            (Principal("a", "bc"), Collection("docs", Scope.USER, "", generation=1)),
            (Principal("a", "bc"), Collection("docs1", Scope.USER, "")),
        ]
        assert len({spaces.space(*where) for where in wheres}) == len(wheres)

    def test_the_user_counts_only_where_the_scope_says_so(self) -> None:
        shared = Collection("docs", Scope.TENANT, "")
        assert spaces.space(ANN, shared) == spaces.space(Principal("acme", "bob"), shared)

    @given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
    def test_keys_are_hexadecimal_digits_whatever_they_are_made_of(
        self, tenant: str, user: str, metadata: dict[str, str]
    ) -> None:
        where = spaces.space(Principal(tenant, user), Collection("docs", Scope.USER, ""))
        for key in (where, spaces.document_key(where, user), *spaces.labels(metadata)):
            assert len(key) == spaces.KEY_LENGTH
            assert set(key) <= set("0123456789abcdef")
