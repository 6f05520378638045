"""Documents in Milvus.

A filter compares fields with keys that `core.spaces` made, and holds nothing else: Milvus Lite knows no bound values.

Milvus has no transactions. So a document is written as a new revision, all its rows before any old one goes, and each
row tells how many there are; the newest whole revision is the document. Rows are deleted by key: Milvus may leave some
of those that a filter finds.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pymilvus import MilvusException

from services.kit.breaker import Breaker
from services.kit.call import Principal
from services.retrieval.adapters import milvus_search
from services.retrieval.adapters.milvus_client import Milvus, MilvusSettings
from services.retrieval.adapters.milvus_found import SHOWN, VECTOR, Ranking, hits, rankings
from services.retrieval.adapters.milvus_rows import (
    Row,
    newest_whole,
    next_revision,
    read_collection,
    read_document,
    write_entry,
    write_rows,
)
from services.retrieval.adapters.milvus_schema import Layout
from services.retrieval.adapters.milvus_together import Together
from services.retrieval.core import spaces
from services.retrieval.domain import Collection, Document, Hit, IndexedDocument, Mode, Query

_CANDIDATES = 50
"""Chunks of each ranking that are merged, at least."""

_MOST_ROWS = 16_384
"""Milvus answers a query with no more."""

_RADIUS_MARGIN = 1e-4

_WRITTEN_AT_ONCE = 500
_DELETED_AT_ONCE = 1000
_COLLECTIONS_LISTED = 1000
_REGISTRY = ["key", "name", "scope", "description", "generation", "deleted"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What searches have in common that are asked together: all but what is looked for. Who asks is in the filter."""

    mode: Mode
    where: str
    top_k: int
    min_score: float


class MilvusDocumentStore:
    """A DocumentStore in two collections of one Milvus."""

    def __init__(self, settings: MilvusSettings, layout: Layout, breaker: Breaker | None = None) -> None:
        """Opens nothing yet; the first call makes what is not there. `breaker` is the one of `MILVUS`."""
        self._milvus = Milvus(settings, layout.prepare, breaker)
        self._together: Together[_Kind, Query, Sequence[Ranking]] = Together(self._ask, MilvusException)
        self._chunks = layout.chunks
        self._registry = layout.registry

    async def find(self, principal: Principal, names: Sequence[str]) -> Sequence[Collection]:
        """Those of the named collections that are there."""
        rows = await self._entries(_any_of("key", [spaces.registry_key(principal, name) for name in names]))
        return [read_collection(row) for row in rows if not row["deleted"]]

    async def collections(self, principal: Principal) -> Sequence[Collection]:
        """The tenant's collections, by name."""
        rows = await self._entries(f"{_any_of('tenant', [spaces.tenant_key(principal)])} and deleted == false")
        return sorted((read_collection(row) for row in rows), key=lambda collection: collection.name)

    async def create(self, principal: Principal, collection: Collection) -> Collection:
        """Makes a collection."""
        generation = 0
        for row in await self._entries(_any_of("key", [spaces.registry_key(principal, collection.name)])):
            there = read_collection(row)
            if not row["deleted"]:
                return there
            # What a deletion that was cut short left behind; nobody writes there any more.
            await self._purge(principal, there)
            generation = there.generation + 1
        made = Collection(collection.name, collection.scope, collection.description, generation)
        await self._enter(principal, made, deleted=False)
        return made

    async def drop(self, principal: Principal, collection: Collection) -> None:
        """Deletes a collection."""
        await self._enter(principal, collection, deleted=True)
        await self._purge(principal, collection)

    async def put(self, principal: Principal, collection: Collection, documents: Sequence[IndexedDocument]) -> None:
        """Writes documents."""
        space = spaces.space(principal, collection)
        keys = [spaces.document_key(space, each.document.document_id) for each in documents]
        revisions = defaultdict(list)
        for row in await self._stored(keys):
            revisions[row["document"]].append(row["revision"])
        where = {"space": space, "collection": spaces.collection_key(principal, collection)}
        rows = [
            {**where, **row}
            for key, each in zip(keys, documents, strict=True)
            for row in write_rows(key, next_revision(revisions[key]), each)
        ]
        for batch in _batches(rows, _WRITTEN_AT_ONCE):
            await self._insert(batch)
        await self._keep_newest(keys)

    async def get(self, principal: Principal, collection: Collection, document_id: str) -> Document | None:
        """A document as it was written."""
        key = spaces.document_key(spaces.space(principal, collection), document_id)
        fields = ["document_id", "title", "content", "metadata", "update_time"]
        rows = await self._stored([key], *fields)
        newest = newest_whole(rows)
        whole = sorted((row for row in rows if row["revision"] == newest), key=lambda row: row["number"])
        return read_document(whole) if whole else None

    async def delete(self, principal: Principal, collection: Collection, document_ids: Sequence[str]) -> None:
        """Deletes documents."""
        space = spaces.space(principal, collection)
        keys = [spaces.document_key(space, document_id) for document_id in document_ids]
        while rows := await self._stored(keys):
            await self._delete([row["key"] for row in rows])

    async def search(self, principal: Principal, collections: Sequence[Collection], query: Query) -> Sequence[Hit]:
        """The chunks that match best."""
        names = {spaces.space(principal, collection): collection.name for collection in collections}
        where = _any_of("space", list(names))
        if query.metadata:
            where += f" and array_contains_all(labels, {_listed(spaces.labels(query.metadata))})"
        kind = _Kind(query.mode, where, query.top_k, query.min_score)
        found = await self._milvus.call(lambda _client: self._together.ask(kind, query))
        best = hits(names, found, query)
        return sorted(best, key=lambda hit: (-hit.score, hit.collection, hit.document_id, hit.number))

    async def check(self) -> None:
        """Returns when Milvus answers."""
        await self._milvus.check(lambda client: client.list_collections(retry_times=0))

    async def close(self) -> None:
        """Closes the connection."""
        await self._together.close()
        await self._milvus.close()

    async def _ask(self, kind: _Kind, queries: Sequence[Query]) -> Sequence[Sequence[Ranking]]:
        """One ranking for each query, or two. Merging is done here: Milvus Lite counts ranks on from query to query."""
        limit = max(_CANDIDATES, kind.top_k) if kind.mode is Mode.HYBRID else kind.top_k
        requests = []
        if kind.mode is not Mode.SPARSE:
            requests.append(self._dense(kind, queries, limit))
        if kind.mode is not Mode.DENSE:
            requests.append(self._sparse(kind, queries, limit))
        found = await asyncio.gather(*map(self._milvus.search, requests))
        return list(zip(*(rankings(each, len(queries)) for each in found), strict=True))

    def _dense(self, kind: _Kind, queries: Sequence[Query], limit: int) -> Any:
        # Milvus leaves out what is at the radius, too; what is just outside is left out here.
        params = {"radius": kind.min_score - _RADIUS_MARGIN} if kind.min_score else {}
        asked = milvus_search.near(query.embedding for query in queries)
        return milvus_search.ranking(
            self._chunks, "embedding", asked, kind.where, limit, SHOWN, metric_type="IP", params=params
        )

    def _sparse(self, kind: _Kind, queries: Sequence[Query], limit: int) -> Any:
        fields = (*SHOWN, VECTOR) if kind.mode is Mode.HYBRID and kind.min_score else SHOWN
        asked = milvus_search.worded(query.text for query in queries)
        return milvus_search.ranking(self._chunks, "words", asked, kind.where, limit, fields, metric_type="BM25")

    async def _entries(self, where: str) -> Sequence[Row]:
        return await self._milvus.call(
            lambda client: client.query(
                self._registry, filter=where, output_fields=_REGISTRY, limit=_COLLECTIONS_LISTED, retry_times=1
            )
        )

    async def _enter(self, principal: Principal, collection: Collection, *, deleted: bool) -> None:
        row = write_entry(principal, collection, deleted=deleted)
        await self._milvus.call(lambda client: client.upsert(self._registry, [row], retry_times=1))

    async def _stored(self, documents: Sequence[str], *fields: str) -> Sequence[Row]:
        """Rows of documents, of all revisions; at most 16,384 when there is one document."""
        where = _any_of("document", documents)
        rows = await self._query(where, ["key", "document", "revision", "number", "count", *fields])
        if len(rows) < _MOST_ROWS or len(documents) == 1:
            return rows
        half = len(documents) // 2
        return [*await self._stored(documents[:half], *fields), *await self._stored(documents[half:], *fields)]

    async def _keep_newest(self, documents: Sequence[str]) -> None:
        """Deletes what is older than the newest whole revision of each document. The last of two writers sees both."""
        by_document = defaultdict(list)
        for row in await self._stored(documents):
            by_document[row["document"]].append(row)
        stale: list[str] = []
        for rows in by_document.values():
            newest = newest_whole(rows)
            stale += [row["key"] for row in rows if row["revision"] < newest]
        await self._delete(stale)

    async def _purge(self, principal: Principal, collection: Collection) -> None:
        where = _any_of("collection", [spaces.collection_key(principal, collection)])
        while rows := await self._query(where, ["key"]):
            await self._delete([row["key"] for row in rows])

    async def _delete(self, keys: Sequence[str]) -> None:
        for batch in _batches(keys, _DELETED_AT_ONCE):
            await self._delete_batch(batch)

    async def _delete_batch(self, keys: list[str]) -> None:
        await self._milvus.call(lambda client: client.delete(self._chunks, ids=keys, retry_times=1))

    async def _insert(self, rows: list[dict[str, Any]]) -> None:
        await self._milvus.call(lambda client: client.insert(self._chunks, rows, retry_times=0))

    async def _query(self, where: str, fields: list[str]) -> Sequence[Row]:
        found: Sequence[Row] = await self._milvus.call(
            lambda client: client.query(
                self._chunks, filter=where, output_fields=fields, limit=_MOST_ROWS, retry_times=1
            )
        )
        return found


def _listed(keys: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{key}"' for key in keys) + "]"


def _any_of(field: str, keys: Sequence[str]) -> str:
    """The one way a filter begins: a field is one of keys made by `core.spaces`."""
    if len(keys) == 1:
        return f'{field} == "{keys[0]}"'  # Milvus takes half a millisecond less for 10,000 rows than for a list of one
    return f"{field} in {_listed(keys)}"


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
