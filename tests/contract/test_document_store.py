"""What every DocumentStore does, for the fake and for Milvus."""

import asyncio
import math
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from services.kit.call import Principal
from services.retrieval.adapters.inmemory import InMemoryDocumentStore
from services.retrieval.adapters.milvus import MilvusDocumentStore
from services.retrieval.adapters.milvus_client import MilvusSettings
from services.retrieval.adapters.milvus_schema import Layout
from services.retrieval.domain import Chunk, Collection, Document, IndexedDocument, Mode, Query, Scope
from services.retrieval.ports import DocumentStore
from tests.support.milvus import running_milvus

WIDTH = 8
WHEN = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
HOSTILE = [
    '" or tenant != "',
    "a\\",
    "'; drop",
    'x"] or 1 == 1 or space in ["',
    "{tenant}",
    "日本\u2028é😀",
    "a:b*c\n",
    "%",
    "",
]


@pytest.fixture(scope="module", params=["inmemory", "milvus"])
async def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DocumentStore]:
    if request.param == "inmemory":
        yield InMemoryDocumentStore()
        return
    async with running_milvus(tmp_path_factory.mktemp("milvus")) as uri:
        opened = MilvusDocumentStore(MilvusSettings(uri), Layout("test", WIDTH, "FLAT", "english"))
        yield opened
        await opened.close()


@pytest.fixture
def principal() -> Principal:
    return someone()


def someone(tenant: str = "", user: str = "ann") -> Principal:
    return Principal(tenant or f"tenant-{uuid.uuid4().hex}", user)


async def make(
    store: DocumentStore, principal: Principal, name: str = "docs", scope: Scope = Scope.TENANT
) -> Collection:
    return await store.create(principal, Collection(name, scope, ""))


def unit(*numbers: float) -> list[float]:
    padded = [*numbers, *[0.0] * (WIDTH - len(numbers))]
    length = math.sqrt(sum(number * number for number in padded))
    return [number / length for number in padded]


def indexed(
    document_id: str, *texts: str, at: Sequence[float] = (), title: str = "", **metadata: str
) -> IndexedDocument:
    start, chunks = 0, []
    for text in texts:
        chunks.append(Chunk(start, text))
        start += len(text)
    document = Document(document_id, title, "".join(texts), metadata, WHEN)
    return IndexedDocument(document, chunks, [list(at) or unit(1)] * len(chunks))


def dense(*numbers: float, top_k: int = 10, min_score: float = 0.0, **metadata: str) -> Query:
    return Query(Mode.DENSE, "", unit(*numbers), top_k, min_score, metadata)


def sparse(text: str, top_k: int = 10, **metadata: str) -> Query:
    return Query(Mode.SPARSE, text, (), top_k, 0.0, metadata)


def hybrid(text: str, *numbers: float, top_k: int = 10, min_score: float = 0.0) -> Query:
    return Query(Mode.HYBRID, text, unit(*numbers), top_k, min_score, {})


async def ids(store: DocumentStore, principal: Principal, where: Collection, query: Query) -> list[str]:
    return [hit.document_id for hit in await store.search(principal, [where], query)]


async def test_answers_its_check(store: DocumentStore) -> None:
    await store.check()


async def test_unknown_collections_are_not_found(store: DocumentStore, principal: Principal) -> None:
    await make(store, principal, "known")
    assert [found.name for found in await store.find(principal, ["unknown", "known"])] == ["known"]


async def test_collections_are_listed_by_name_with_scope_and_description(
    store: DocumentStore, principal: Principal
) -> None:
    await store.create(principal, Collection("beta", Scope.USER, 'says "hi" \\ 日本'))
    await store.create(principal, Collection("alpha", Scope.TENANT, ""))
    found = await store.collections(principal)
    assert [(each.name, each.scope, each.description) for each in found] == [
        ("alpha", Scope.TENANT, ""),
        ("beta", Scope.USER, 'says "hi" \\ 日本'),
    ]


async def test_a_collection_that_is_there_stays_as_it_is(store: DocumentStore, principal: Principal) -> None:
    first = await make(store, principal)
    await store.put(principal, first, [indexed("d", "text")])
    assert await make(store, principal) == first
    assert await store.get(principal, first, "d") is not None


async def test_a_dropped_collection_is_gone_with_all_that_was_in_it(store: DocumentStore) -> None:
    ann = someone()
    bob = Principal(ann.tenant, "bob")
    first = await make(store, ann, scope=Scope.USER)
    await store.put(ann, first, [indexed("d", "of ann")])
    await store.put(bob, first, [indexed("d", "of bob")])
    await store.drop(ann, first)
    assert await store.find(ann, ["docs"]) == []
    assert await store.collections(ann) == []
    assert await store.get(bob, first, "d") is None
    again = await make(store, ann, scope=Scope.USER)
    for owner in (ann, bob):
        assert await store.get(owner, again, "d") is None
        assert await ids(store, owner, again, dense(1)) == []


async def test_what_is_written_into_a_dropped_collection_does_not_appear_in_the_next(
    store: DocumentStore, principal: Principal
) -> None:
    first = await make(store, principal)
    await store.drop(principal, first)
    await store.put(principal, first, [indexed("ghost", "late writer")])
    again = await make(store, principal)
    assert await ids(store, principal, again, dense(1)) == []
    assert await store.get(principal, again, "ghost") is None


async def test_a_writer_who_missed_the_deletion_does_not_write_into_the_next_collection(
    store: DocumentStore, principal: Principal
) -> None:
    first = await make(store, principal)
    await store.drop(principal, first)
    again = await make(store, principal)
    await store.put(principal, first, [indexed("ghost", "late writer")])
    assert await ids(store, principal, again, dense(1)) == []
    assert await store.get(principal, again, "ghost") is None


async def test_a_document_comes_back_as_it_was_written(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    texts = ["\n  Erste Größe 日本😀.\n\n", "quote \" and \\ and '", "\t\n", " end \u2028 "]
    await store.put(principal, where, [indexed("d", *texts, title='A "title" \\ é', lang="d\"e\\'=x", empty="")])
    found = await store.get(principal, where, "d")
    assert found is not None
    assert found.text == "".join(texts)
    assert (found.document_id, found.title, found.update_time) == ("d", 'A "title" \\ é', WHEN)
    assert found.metadata == {"lang": "d\"e\\'=x", "empty": ""}


async def test_the_longest_document_and_the_most_metadata_come_back(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    facts = {f"{'k' * 60}{i:02}": "😀" * 500 for i in range(32)}
    chunks = [Chunk(8000 * i, "😀" * 8000) for i in range(25)]
    longest = Document("d", "😀" * 300, "😀" * 200_000, facts, WHEN)
    await store.put(principal, where, [IndexedDocument(longest, chunks, [unit(1)] * 25)])
    found = await store.get(principal, where, "d")
    assert found is not None
    assert found == longest


async def test_an_unknown_document_is_none(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(principal, where, [indexed("d", "text")])
    assert await store.get(principal, where, "D") is None


async def test_a_document_written_again_leaves_nothing_of_the_old(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(principal, where, [indexed("d", "one ", "two ", "three", old="yes"), indexed("other", "stays")])
    await store.put(principal, where, [indexed("d", "four", new="yes")])
    found = await store.get(principal, where, "d")
    assert found is not None
    assert (found.text, found.metadata) == ("four", {"new": "yes"})
    hits = await store.search(principal, [where], dense(1))
    assert [(hit.document_id, hit.text) for hit in hits] == [("d", "four"), ("other", "stays")]
    assert await ids(store, principal, where, sparse("three")) == []
    assert await ids(store, principal, where, dense(1, old="yes")) == []


async def test_two_writers_of_a_document_leave_the_whole_of_one(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    versions = [indexed("d", *[f"v{i} part{n} " for n in range(1 + 3 * i)]) for i in range(6)]
    await asyncio.gather(*(store.put(principal, where, [version]) for version in versions))
    found = await store.get(principal, where, "d")
    assert found is not None
    hits = await store.search(principal, [where], dense(1, top_k=100))
    assert found.text in {version.document.text for version in versions}
    assert "".join(hit.text for hit in sorted(hits, key=lambda hit: hit.number)) == found.text


async def test_a_deleted_document_is_gone_and_others_stay(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(principal, where, [indexed("a", "x ", "y"), indexed("b", "x"), indexed("c", "x")])
    await store.delete(principal, where, ["a", "c", "never"])
    assert await store.get(principal, where, "a") is None
    assert await ids(store, principal, where, dense(1)) == ["b"]


async def test_what_is_written_is_found_by_the_next_search_and_what_is_deleted_is_not(
    store: DocumentStore, principal: Principal
) -> None:
    where = await make(store, principal)
    stale = 0
    for i in range(100):
        near = unit(math.cos(i), math.sin(i), i % 7)
        await store.put(principal, where, [indexed(f"d{i}", f"word{i} here", at=near)])
        stale += f"d{i}" not in await ids(store, principal, where, Query(Mode.HYBRID, f"word{i}", near, 3))
        await store.delete(principal, where, [f"d{i}"])
        stale += f"d{i}" in await ids(store, principal, where, Query(Mode.HYBRID, f"word{i}", near, 3))
    assert stale == 0


async def test_dense_ranks_by_cosine(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    placed = {"near": unit(1, 0.1), "far": unit(-1), "middle": unit(1, 1)}
    await store.put(principal, where, [indexed(name, name, at=at) for name, at in placed.items()])
    hits = await store.search(principal, [where], dense(1))
    assert [hit.document_id for hit in hits] == ["near", "middle", "far"]
    assert [hit.score for hit in hits] == pytest.approx([unit(1, 0.1)[0], math.sqrt(0.5), -1.0], abs=1e-5)
    assert await ids(store, principal, where, dense(1, top_k=1)) == ["near"]


async def test_sparse_ranks_by_words_and_leaves_out_what_has_none(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(
        principal,
        where,
        [
            indexed("twice", "refund refund policy"),
            indexed("once", "refund after a long story about quite different matters of trade"),
            indexed("titled", "nothing of it", title="Warranty"),
            indexed("none", "shipping times"),
        ],
    )
    assert await ids(store, principal, where, sparse("refund")) == ["twice", "once"]
    assert await ids(store, principal, where, sparse("warranty")) == ["titled"]
    assert await ids(store, principal, where, sparse("???")) == []


async def test_hybrid_merges_both_rankings_by_reciprocal_rank(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(
        principal,
        where,
        [
            indexed("both", "zebra", at=unit(1, 0.2)),
            indexed("meaning", "horse", at=unit(1)),
            indexed("neither", "donkey", at=unit(0, 1)),
        ],
    )
    hits = await store.search(principal, [where], hybrid("zebra", 1))
    assert [hit.document_id for hit in hits] == ["both", "meaning", "neither"]
    assert [hit.score for hit in hits] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 63], abs=1e-6)


async def test_hybrid_answers_when_no_word_is_known(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(principal, where, [indexed("d", "text")])
    assert await ids(store, principal, where, hybrid("qqq zzz", 1)) == ["d"]


async def test_chunks_below_the_least_cosine_are_left_out(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(
        principal, where, [indexed("near", "zebra", at=unit(1, 0.1)), indexed("far", "zebra zebra", at=unit(0.2, 1))]
    )
    assert await ids(store, principal, where, dense(1, min_score=0.5)) == ["near"]
    assert await ids(store, principal, where, hybrid("zebra", 1, min_score=0.5)) == ["near"]
    assert set(await ids(store, principal, where, hybrid("zebra", 1, min_score=0.1))) == {"near", "far"}
    assert await ids(store, principal, where, hybrid("zebra", 0, 0, 1, min_score=0.1)) == []


async def test_equal_scores_come_by_document_and_number(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    names = [f"d{i}" for i in range(9)]
    shuffled = random.Random(7).sample(names, len(names))
    await store.put(principal, where, [indexed(name, "same ", "same") for name in shuffled])
    hits = await store.search(principal, [where], dense(1, top_k=50))
    assert [(hit.document_id, hit.number) for hit in hits] == [(name, number) for name in names for number in (0, 1)]


async def test_searches_at_once_find_what_each_finds_alone(store: DocumentStore, principal: Principal) -> None:
    where, chance = await make(store, principal), random.Random(11)
    animals = ["zebra", "horse", "donkey", "mule", "qqq"]
    documents = [
        indexed(
            f"d{i:02}", " ".join(chance.choices(animals[:-1], k=1 + i % 5)), at=unit(math.cos(i), math.sin(i), i % 3)
        )
        for i in range(30)
    ]
    await store.put(principal, where, documents)
    queries = [
        Query(mode, chance.choice(animals), unit(chance.random(), chance.random()), top_k, least, {})
        for mode in Mode
        for top_k, least in ((5, 0.0), (5, 0.6), (100, 0.0))
        for _ in range(20)
    ]
    alone = [await store.search(principal, [where], query) for query in queries]
    assert await asyncio.gather(*(store.search(principal, [where], query) for query in queries)) == alone


async def test_metadata_must_all_match_exactly(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(
        principal,
        where,
        [
            indexed("both", "t", lang="en", kind="faq"),
            indexed("one", "t", lang="en", kind="faq2"),
            indexed("swapped", "t", lang="faq", kind="en"),
            indexed("none", "t"),
        ],
    )
    assert await ids(store, principal, where, dense(1, lang="en", kind="faq")) == ["both"]
    assert await ids(store, principal, where, dense(1, lang="en")) == ["both", "one"]
    assert await ids(store, principal, where, dense(1, lang="EN")) == []
    assert await ids(store, principal, where, sparse("t", kind="en")) == ["swapped"]


@pytest.mark.parametrize("value", HOSTILE)
async def test_hostile_metadata_matches_only_itself(store: DocumentStore, principal: Principal, value: str) -> None:
    where = await make(store, principal)
    await store.put(principal, where, [indexed("its", "t", fact=value), indexed("other", "t", fact="plain")])
    assert await ids(store, principal, where, dense(1, fact=value)) == ["its"]


@pytest.mark.parametrize("value", HOSTILE)
async def test_hostile_identities_see_only_their_own(store: DocumentStore, value: str) -> None:
    victim = someone()
    secret = await make(store, victim)
    await store.put(victim, secret, [indexed("d", "secret")])
    attacker = Principal(value + uuid.uuid4().hex, value)
    assert await store.find(attacker, ["docs"]) == []
    assert await store.search(attacker, [secret], dense(1)) == []
    own = await make(store, attacker, scope=Scope.USER)
    await store.put(attacker, own, [indexed("d", "own")])
    assert [hit.text for hit in await store.search(attacker, [own], dense(1))] == ["own"]
    neighbour = Principal(attacker.tenant, value + "x")
    assert await store.search(neighbour, [own], dense(1)) == []


async def test_another_tenant_cannot_read_write_or_delete(store: DocumentStore, principal: Principal) -> None:
    where = await make(store, principal)
    await store.put(principal, where, [indexed("d", "mine")])
    stranger = someone()
    assert await store.get(stranger, where, "d") is None
    for query in (dense(1), sparse("mine"), hybrid("mine", 1)):
        assert await store.search(stranger, [where], query) == []
    await store.delete(stranger, where, ["d"])
    await store.put(stranger, where, [indexed("d", "theirs")])
    await store.drop(stranger, where)
    found = await store.get(principal, where, "d")
    assert found is not None and found.text == "mine"
    assert await store.find(principal, ["docs"]) == [where]


async def test_in_a_users_collection_each_sees_their_own_and_the_tenants_are_shared(store: DocumentStore) -> None:
    ann = someone(user="ann")
    bob = Principal(ann.tenant, "bob")
    private, shared = await make(store, ann, "private", Scope.USER), await make(store, ann, "shared")
    for owner in (ann, bob):
        await store.put(owner, private, [indexed("note", f"of {owner.user}")])
    await store.put(ann, shared, [indexed("page", "of all")])
    for owner in (ann, bob):
        hits = await store.search(owner, [private, shared], dense(1))
        assert {(hit.collection, hit.text) for hit in hits} == {("private", f"of {owner.user}"), ("shared", "of all")}
    await store.delete(bob, private, ["note"])
    assert await store.get(ann, private, "note") is not None


async def test_a_search_finds_only_in_the_collections_it_names(store: DocumentStore, principal: Principal) -> None:
    made = [await make(store, principal, name) for name in ("a", "b", "c")]
    for where in made:
        await store.put(principal, where, [indexed("d", "text")])
    hits = await store.search(principal, made[:2], dense(1))
    assert [hit.collection for hit in hits] == ["a", "b"]


async def test_many_random_searches_of_two_tenants_find_no_foreign_row(store: DocumentStore) -> None:
    chance = random.Random(5)
    owners = [Principal(someone().tenant, user) for user in ("ann", "bob")] + [someone(user="ann")]
    places = {}
    for owner in owners:
        for scope in Scope:
            where = await make(store, owner, scope.name.lower(), scope)
            places[owner, scope] = where
            documents = [
                indexed(f"d{i}", f"{owner.tenant} {owner.user}", at=unit(i, 1), fact=str(i % 2)) for i in range(5)
            ]
            await store.put(owner, where, documents)
    for _ in range(200):
        owner, scope = chance.choice(owners), chance.choice(list(Scope))
        kind = chance.choice(list(Mode))
        query = Query(
            kind, "ann bob tenant", unit(chance.random(), 1), 100, 0.0, {"fact": "1"} if chance.random() < 0.3 else {}
        )
        for hit in await store.search(owner, [places[owner, scope]], query):
            assert hit.text == f"{owner.tenant} {owner.user}"
