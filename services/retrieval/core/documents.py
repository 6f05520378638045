"""Documents: cut, embedded, written; read; deleted."""

import asyncio
from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import DocumentNotFound, InvalidArgument
from services.retrieval.core.chunking import Chunker
from services.retrieval.core.collections import Collections
from services.retrieval.domain import Chunk, Document, IndexedDocument
from services.retrieval.ports import DocumentStore, Embedder


class Documents:
    """The documents of collections."""

    def __init__(self, collections: Collections, store: DocumentStore, embedder: Embedder, *, batch: int) -> None:
        """Embeds `batch` chunks in one call."""
        self._collections = collections
        self._store = store
        self._embedder = embedder
        self._batch = batch
        self._chunker = Chunker()

    async def upsert(self, principal: Principal, collection: str, documents: Sequence[Document]) -> int:
        """Writes documents, replacing those with the same id; returns the number of chunks they were cut into.

        Nothing is written before all of them are embedded.

        Raises:
            InvalidArgument: an id is there twice, or a text is blank.
            CollectionNotFound: there is no such collection.
            ModelUnavailable: the embedder does not answer.
        """
        _check(documents)
        where = await self._collections.look_up(principal, collection)
        cut = [await asyncio.to_thread(self._chunker.split, document.text) for document in documents]
        pairs = zip(documents, cut, strict=True)
        embeddings = iter(
            await self._embed([_searched(document, chunk) for document, chunks in pairs for chunk in chunks])
        )
        indexed = [
            IndexedDocument(document, chunks, [next(embeddings) for _ in chunks])
            for document, chunks in zip(documents, cut, strict=True)
        ]
        await self._store.put(principal, where, indexed)
        return sum(len(chunks) for chunks in cut)

    async def get(self, principal: Principal, collection: str, document_id: str) -> Document:
        """A document as it was written. Raises CollectionNotFound, DocumentNotFound."""
        where = await self._collections.look_up(principal, collection)
        document = await self._store.get(principal, where, document_id)
        if document is None:
            raise DocumentNotFound(f"there is no document {document_id} in collection {collection}")
        return document

    async def delete(self, principal: Principal, collection: str, document_ids: Sequence[str]) -> None:
        """Deletes documents; those that are not there are ignored. Raises CollectionNotFound."""
        where = await self._collections.look_up(principal, collection)
        await self._store.delete(principal, where, list(dict.fromkeys(document_ids)))

    async def _embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        # One batch after another: the embedder also serves the questions of people who wait.
        embeddings: list[Sequence[float]] = []
        for start in range(0, len(texts), self._batch):
            embeddings += await self._embedder.embed(texts[start : start + self._batch])
        return embeddings


def _check(documents: Sequence[Document]) -> None:
    wrong: dict[str, str] = {}
    seen: set[str] = set()
    for i, document in enumerate(documents):
        if document.document_id in seen:
            wrong[f"documents[{i}].document_id"] = "is there twice"
        if not document.text.strip():
            wrong[f"documents[{i}].text"] = "must not be blank"
        seen.add(document.document_id)
    if wrong:
        raise InvalidArgument("; ".join(f"{field}: {text}" for field, text in wrong.items()), fields=wrong)


def _searched(document: Document, chunk: Chunk) -> str:
    """The text a chunk is found by. A chunk may be blank, a text to embed may not."""
    return f"{document.title}\n{chunk.text}".strip() or "."
