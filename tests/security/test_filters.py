"""No name, id, query or filter reaches rows of another: random ones, against a real Milvus.

Half of them go through the contract, which refuses most of what is hostile; the other half past it, to the adapter.
"""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from pymilvus import AsyncMilvusClient

from myriad.retrieval.v1 import retrieval_pb2 as pb
from services.kit.call import Principal
from services.retrieval.adapters.inmemory import InMemoryEmbedder
from services.retrieval.adapters.milvus import MilvusDocumentStore
from services.retrieval.adapters.milvus_client import MilvusSettings
from services.retrieval.adapters.milvus_schema import Layout
from services.retrieval.config import Config
from services.retrieval.core import spaces
from services.retrieval.domain import Chunk, Collection, Document, IndexedDocument, Mode, Query, Scope
from tests.security.world import Refusal, World
from tests.support.requests import method_of

WORDS = ["refund", "parcel", "invoice", "secret", "house"]
HOSTILE = [
    '"',
    "'",
    "\\",
    '\\"',
    '" or tenant != "',
    '" or 1 == 1 or "" == "',
    "' or 1 == 1 --",
    '"] or space != "',
    '"] or space in ["',
    "\"] or document like '%' or space in [\"",
    ") or (true",
    "true",
    "*",
    "%",
    "_",
    "{x}",
    "{{tenant}}",
    "$meta",
    "space",
    "key >= 0",
    'x" and exists(space) or "',
    "array_contains_any(labels, [])",
    "\u02ba or 1==1 or \u02ba",
    "＂ or 1＝＝1",
    "ʼ; drop",
    "\u202e",
    "\U0001f600" * 20,
    "faq",
    "notes",
    "",
]
TENANTS = ['a" or tenant != "', 'a"] or space in ["', "acme", "acm", "ACME", "acme/ann"]
SCOPES = {"faq": Scope.TENANT, "notes": Scope.USER}


@dataclass(frozen=True)
class Owner:
    """Somebody with documents, and how theirs are known."""

    principal: Principal

    def may_see(self, title: str, collection: str) -> bool:
        """Whether a document with this title, in a collection of this name, is theirs."""
        tenant, user = title.split("|")
        return tenant == self.principal.tenant and (SCOPES[collection] is Scope.TENANT or user == self.principal.user)


@dataclass(frozen=True)
class Library:
    """Everybody's documents."""

    world: World
    store: MilvusDocumentStore
    chunks: str
    owners: Sequence[Owner]


@pytest.fixture(scope="module")
async def library(world: World) -> AsyncIterator[Library]:
    defaults = Config()
    layout = Layout(defaults.collection_prefix, defaults.dimension, defaults.vector_index, defaults.analyzer)
    store = MilvusDocumentStore(MilvusSettings(world.milvus_uri), layout)
    owners = [Owner(Principal(tenant, user)) for tenant in TENANTS for user in ("ann", 'bob" or "')]
    embedder, now = InMemoryEmbedder(defaults.dimension), datetime(2026, 1, 1, tzinfo=UTC)
    for owner in owners:
        for name, scope in SCOPES.items():
            made = await store.create(owner.principal, Collection(name, scope, ""))
            title = f"{owner.principal.tenant}|{owner.principal.user}"
            texts = [f"{word} {' '.join(WORDS)}" for word in WORDS]
            indexed = [
                IndexedDocument(
                    Document(f"{owner.principal.user[:3]}-{number}", title, text, {"kind": WORDS[number]}, now),
                    [Chunk(0, text)],
                    await embedder.embed([text]),
                )
                for number, text in enumerate(texts)
            ]
            await store.put(owner.principal, made, indexed)
    yield Library(world, store, layout.chunks, owners)
    await store.close()


class Attack:
    """Random requests of one owner."""

    def __init__(self, library: Library, chance: random.Random) -> None:
        self._library = library
        self._chance = chance
        self._embedder = InMemoryEmbedder(Config().dimension)

    def _text(self) -> str:
        pieces = [self._chance.choice(HOSTILE if self._chance.random() < 0.6 else WORDS) for _ in range(3)]
        return self._chance.choice(["", " "]).join(pieces[: self._chance.randint(1, 3)])

    def _facts(self) -> dict[str, str]:
        if self._chance.random() < 0.5:
            return {"kind": self._chance.choice(WORDS)} if self._chance.random() < 0.5 else {}
        return {
            self._chance.choice(["kind", "x", self._text()]): self._text() for _ in range(self._chance.randint(1, 3))
        }

    async def by_contract(self, owner: Owner) -> list[tuple[str, str]]:
        """Title and collection of each hit."""
        names = {self._chance.choice([*SCOPES, self._text()]) for _ in range(self._chance.randint(1, 2))}
        request = pb.SearchRequest(
            collections=sorted(names),
            query=f"{self._text()} {self._chance.choice(WORDS)}",
            mode=self._chance.randint(0, 3),  # type: ignore[arg-type]
            filter=self._facts(),
            top_k=self._chance.choice([0, 5, 100]),
        )
        search = method_of("retrieval.Search")
        replies = await self._library.world.ask(owner.principal, search, request)
        if isinstance(replies, Refusal):
            assert replies.code in {"INVALID_ARGUMENT", "NOT_FOUND"}, replies
            return []
        return [(hit.title, hit.collection) for hit in replies[0].hits]

    async def past_it(self, owner: Owner) -> list[tuple[str, str]]:
        """The same, of names that no contract lets through."""
        names = {self._chance.choice([*SCOPES, self._text()]) for _ in range(self._chance.randint(1, 2))}
        made = [Collection(name, self._scope(name), "") for name in names]
        text = f"{self._text()} {self._chance.choice(WORDS)}"
        (vector,) = await self._embedder.embed([text])
        query = Query(self._chance.choice([*Mode]), text, vector, self._chance.choice([5, 100]), 0.0, self._facts())
        hits = await self._library.store.search(owner.principal, made, query)
        document = await self._library.store.get(owner.principal, made[0], self._text())
        read = [(document.title, made[0].name)] if document else []
        return [(hit.title, hit.collection) for hit in hits] + read

    def _scope(self, name: str) -> Scope:
        return SCOPES.get(name) or self._chance.choice([*Scope])


@pytest.mark.parametrize(
    "count", [200, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])]
)  # fmt: skip
async def test_no_random_search_finds_a_row_of_another(library: Library, count: int) -> None:
    chance = random.Random(59)
    attack, found = Attack(library, chance), 0
    for number in range(count):
        owner = chance.choice(library.owners)
        hits = await (attack.past_it(owner) if number % 2 else attack.by_contract(owner))
        foreign = [hit for hit in hits if not owner.may_see(*hit)]
        assert not foreign, (number, owner.principal, foreign)
        found += bool(hits)
    assert found > count / 10, "too few searches found anything for this to mean much"


async def test_deleting_by_hostile_names_deletes_nothing_of_anybodys(library: Library) -> None:
    attacker = Principal('x" or space != "', '" or "')
    for text in HOSTILE:
        for scope in Scope:
            there = Collection(text or "faq", scope, "")
            await library.store.delete(attacker, there, [*HOSTILE, "ann-0", "bob-0"])
            await library.store.drop(attacker, there)
    for owner in library.owners:
        for name, scope in SCOPES.items():
            kept = await library.store.get(
                owner.principal, Collection(name, scope, ""), f"{owner.principal.user[:3]}-0"
            )
            assert kept is not None, (owner, name)


async def test_without_the_filter_or_with_a_pasted_one_rows_of_others_are_found(library: Library) -> None:
    """The control: the rows are there to be found, and these texts do break a filter that is put together from text."""
    owner = library.owners[0]
    mine = spaces.space(owner.principal, Collection("faq", Scope.TENANT, ""))
    (vector,) = await InMemoryEmbedder(Config().dimension).embed(["refund"])
    client = AsyncMilvusClient(uri=library.world.milvus_uri)
    try:
        for where in ("", f'space in ["{mine}"] or space != ""', 'space in ["{}"]'.format('"] or space != "')):
            (found,) = await client.search(
                library.chunks,
                data=[vector],
                anns_field="embedding",
                filter=where,
                limit=100,
                output_fields=["space", "title"],
            )
            titles = {row["entity"]["title"].split("|")[0] for row in found}
            assert len(titles) > 1, where
    finally:
        await client.close()
