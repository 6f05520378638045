"""Rows of Milvus from what retrieval deals in, and back."""

import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from services.kit.call import Principal
from services.retrieval.adapters.milvus_schema import NUMBER_LENGTH, REGISTRY_DIMENSION
from services.retrieval.core import spaces
from services.retrieval.domain import Collection, Document, IndexedDocument, Scope

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = Mapping[str, Any]


def write_entry(principal: Principal, collection: Collection, *, deleted: bool) -> dict[str, Any]:
    """A collection's row of the registry."""
    return {
        "key": spaces.registry_key(principal, collection.name),
        "tenant": spaces.tenant_key(principal),
        "name": collection.name,
        "scope": int(collection.scope),
        "description": collection.description,
        "generation": collection.generation,
        "deleted": deleted,
        "vector": [1.0] + [0.0] * (REGISTRY_DIMENSION - 1),
    }


def next_revision(revisions: Sequence[str]) -> str:
    """One that sorts after those there are; unlike another's that began from the same. No clock can be wrong in it."""
    number = 1 + max((int(revision[:12], 16) for revision in revisions), default=0)
    return f"{number:012x}{secrets.token_hex(4)}"


def newest_whole(rows: Sequence[Row]) -> str:
    """The newest revision of which every row is there; empty when there is none."""
    sizes: dict[str, int] = defaultdict(int)
    for row in rows:
        sizes[row["revision"]] += 1
    return max((row["revision"] for row in rows if sizes[row["revision"]] == row["count"]), default="")


def write_rows(key: str, revision: str, indexed: IndexedDocument) -> Iterator[dict[str, Any]]:
    """A document's rows, less what says whose they are. The first one has the metadata."""
    document = indexed.document
    common = {
        "document": key,
        "revision": revision,
        "count": len(indexed.chunks),
        "update_time": (document.update_time - _EPOCH) // timedelta(microseconds=1),
        "document_id": document.document_id,
        "title": document.title,
        "labels": spaces.labels(document.metadata),
    }
    metadata = [f"{name}={value}" for name, value in document.metadata.items()]
    for number, (chunk, embedding) in enumerate(zip(indexed.chunks, indexed.embeddings, strict=True)):
        yield {
            **common,
            "key": _row_key(key, revision, number),
            "number": number,
            "start": chunk.start,
            "content": f"{document.title}\n{chunk.text}",
            "metadata": metadata if number == 0 else [],
            "embedding": list(embedding),
        }


def _text(row: Row) -> str:
    content: str = row["content"]
    return content[len(row["title"]) + 1 :]


def read_document(rows: Sequence[Row]) -> Document:
    """A document from the rows of one revision, in order."""
    first = rows[0]
    facts = (fact.partition("=") for fact in first["metadata"])
    return Document(
        document_id=first["document_id"],
        title=first["title"],
        text="".join(map(_text, rows)),
        metadata={name: value for name, _, value in facts},
        update_time=_EPOCH + timedelta(microseconds=first["update_time"]),
    )


def read_collection(row: Row) -> Collection:
    """A collection from its row of the registry."""
    return Collection(row["name"], Scope(row["scope"]), row["description"], row["generation"])


def _row_key(document: str, revision: str, number: int) -> str:
    return f"{document}{revision}{number:0{NUMBER_LENGTH}}"


def number_in(key: str) -> int:
    """A chunk's place in its document, by its row's key."""
    # From the primary key, not a field: each field that a search must fetch costs time.
    return int(key[-NUMBER_LENGTH:])
