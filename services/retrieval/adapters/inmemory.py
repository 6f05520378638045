"""Fakes of the ports: exact, small, in this process."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from operator import mul

from services.kit.call import Principal
from services.retrieval.core import spaces
from services.retrieval.domain import Chunk, Collection, Document, Hit, IndexedDocument, Mode, Query

_RRF_K = 60
_CANDIDATES = 50
_K1, _B = 1.2, 0.75
_LISTED = 1000


class InMemoryEmbedder:
    """Hashes words to directions: texts that share words are near, and the same text is always the same vector."""

    def __init__(self, dimension: int = 384) -> None:
        """Vectors have `dimension` numbers."""
        self._dimension = dimension

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Unit vectors, one per text."""
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self._dimension
        for word in _words(text) or [text]:
            digest = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")
            vector[digest % self._dimension] += 1.0 if digest >> 63 else -1.0
        length = math.sqrt(sum(map(mul, vector, vector)))
        if not length:
            return [1.0] + [0.0] * (self._dimension - 1)
        return [number / length for number in vector]


@dataclass(frozen=True)
class _Stored:
    """A chunk with what it is found by."""

    hit: Hit
    words: Counter[str]
    embedding: Sequence[float]


class InMemoryDocumentStore:
    """A DocumentStore: cosine and BM25 over all chunks, one by one."""

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._collections: dict[str, tuple[str, Collection]] = {}
        self._generations: Counter[str] = Counter()
        self._documents: dict[str, dict[str, IndexedDocument]] = {}
        self._owned: dict[str, set[str]] = {}

    async def find(self, principal: Principal, names: Sequence[str]) -> Sequence[Collection]:
        """Those of the named collections that are there."""
        keys = [spaces.registry_key(principal, name) for name in names]
        return [self._collections[key][1] for key in keys if key in self._collections]

    async def collections(self, principal: Principal) -> Sequence[Collection]:
        """The tenant's collections, by name."""
        mine = [found for tenant, found in self._collections.values() if tenant == spaces.tenant_key(principal)]
        return sorted(mine, key=lambda collection: collection.name)[:_LISTED]

    async def create(self, principal: Principal, collection: Collection) -> Collection:
        """Makes a collection."""
        key = spaces.registry_key(principal, collection.name)
        made = Collection(collection.name, collection.scope, collection.description, self._generations[key])
        return self._collections.setdefault(key, (spaces.tenant_key(principal), made))[1]

    async def drop(self, principal: Principal, collection: Collection) -> None:
        """Deletes a collection."""
        key = spaces.registry_key(principal, collection.name)
        self._collections.pop(key, None)
        self._generations[key] += 1
        for space in self._owned.pop(spaces.collection_key(principal, collection), set()):
            self._documents.pop(space, None)

    async def put(self, principal: Principal, collection: Collection, documents: Sequence[IndexedDocument]) -> None:
        """Writes documents."""
        space = spaces.space(principal, collection)
        self._owned.setdefault(spaces.collection_key(principal, collection), set()).add(space)
        there = self._documents.setdefault(space, {})
        for indexed in documents:
            there[indexed.document.document_id] = indexed

    async def get(self, principal: Principal, collection: Collection, document_id: str) -> Document | None:
        """A document as it was written."""
        indexed = self._documents.get(spaces.space(principal, collection), {}).get(document_id)
        return indexed.document if indexed else None

    async def delete(self, principal: Principal, collection: Collection, document_ids: Sequence[str]) -> None:
        """Deletes documents."""
        there = self._documents.get(spaces.space(principal, collection), {})
        for document_id in document_ids:
            there.pop(document_id, None)

    async def search(self, principal: Principal, collections: Sequence[Collection], query: Query) -> Sequence[Hit]:
        """The chunks that match best."""
        stored = list(
            chain.from_iterable(self._in(principal, collection, query.metadata) for collection in collections)
        )
        near = _ranked([(sum(map(mul, each.embedding, query.embedding)), each) for each in stored])
        same = _ranked([(score, each) for score, each in _bm25(query.text, stored) if score > 0])
        if query.mode is Mode.DENSE:
            return _shown(near, query, query.min_score)
        if query.mode is Mode.SPARSE:
            return _shown(same, query)
        cosines = {(each.hit.collection, each.hit.document_id, each.hit.number): score for score, each in near}
        depth = max(_CANDIDATES, query.top_k)
        merged = _ranked(_merged(near[:depth], same[:depth]))
        if query.min_score:
            merged = [pair for pair in merged if cosines[_identity(pair[1].hit)] >= query.min_score]
        return _shown(merged, query)

    async def check(self) -> None:
        """Always answers."""

    def _in(self, principal: Principal, collection: Collection, facts: Mapping[str, str]) -> Sequence[_Stored]:
        return [
            _stored(collection.name, indexed.document, number, chunk, embedding)
            for indexed in self._documents.get(spaces.space(principal, collection), {}).values()
            if facts.items() <= indexed.document.metadata.items()
            for number, (chunk, embedding) in enumerate(zip(indexed.chunks, indexed.embeddings, strict=True))
        ]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _stored(collection: str, document: Document, number: int, chunk: Chunk, embedding: Sequence[float]) -> _Stored:
    hit = Hit(collection, document.document_id, document.title, number, chunk.start, chunk.text, 0.0)
    return _Stored(hit, Counter(_words(f"{document.title}\n{chunk.text}")), embedding)


def _identity(hit: Hit) -> tuple[str, str, int]:
    return hit.collection, hit.document_id, hit.number


def _ranked(scored: Sequence[tuple[float, _Stored]]) -> list[tuple[float, _Stored]]:
    return sorted(scored, key=lambda pair: (-pair[0], _identity(pair[1].hit)))


def _bm25(text: str, stored: Sequence[_Stored]) -> Sequence[tuple[float, _Stored]]:
    """BM25 as Robertson and Zaragoza (2009) give it, with the idf that is never negative."""
    asked = set(_words(text))
    lengths = [each.words.total() for each in stored]
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    idf = {}
    for word in asked:
        having = sum(word in each.words for each in stored)
        idf[word] = math.log(1 + (len(stored) - having + 0.5) / (having + 0.5))
    scored = []
    for each, length in zip(stored, lengths, strict=True):
        norm = _K1 * (1 - _B + _B * length / mean) if mean else _K1
        score = sum(idf[word] * each.words[word] * (_K1 + 1) / (each.words[word] + norm) for word in asked)
        scored.append((score, each))
    return scored


def _merged(*rankings: Sequence[tuple[float, _Stored]]) -> list[tuple[float, _Stored]]:
    sums: dict[tuple[str, str, int], tuple[float, _Stored]] = {}
    for ranking in rankings:
        for rank, (_, each) in enumerate(ranking, start=1):
            before = sums.get(_identity(each.hit), (0.0, each))[0]
            sums[_identity(each.hit)] = before + 1 / (_RRF_K + rank), each
    return list(sums.values())


def _shown(ranked: Sequence[tuple[float, _Stored]], query: Query, least: float = 0.0) -> Sequence[Hit]:
    kept = [(score, each.hit) for score, each in ranked if not least or score >= least][: query.top_k]
    return [
        Hit(hit.collection, hit.document_id, hit.title, hit.number, hit.start, hit.text, score) for score, hit in kept
    ]
