"""What core needs from outside."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.kit.call import Principal
from services.retrieval.domain import Collection, Document, Hit, IndexedDocument, Query


class Clock(Protocol):
    """Tells the time."""

    def __call__(self) -> datetime:
        """The time now, UTC."""


class Embedder(Protocol):
    """Turns texts into vectors in which like meanings are near."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """Unit vectors, one per text, in their order. No text is empty.

        Raises:
            ModelUnavailable: the model does not answer.
        """


class DocumentStore(Protocol):
    """Collections, documents and their chunks.

    Every method sees what the principal may see, and nothing else: its tenant's, and of a collection with scope USER
    what that user wrote. What one method wrote, the next one finds, in any process. Every method raises
    VectorIndexUnavailable when the store does not answer.
    """

    async def find(self, principal: Principal, names: Sequence[str]) -> Sequence[Collection]:
        """Those of the named collections that are there, in any order."""

    async def collections(self, principal: Principal) -> Sequence[Collection]:
        """The tenant's collections, by name, at most 1,000."""

    async def create(self, principal: Principal, collection: Collection) -> Collection:
        """Makes a collection, empty whatever was in an earlier one of its name; returns it with its generation."""

    async def drop(self, principal: Principal, collection: Collection) -> None:
        """Deletes a collection with all that is in it, whoever in the tenant wrote it."""

    async def put(self, principal: Principal, collection: Collection, documents: Sequence[IndexedDocument]) -> None:
        """Writes documents with different ids, each replacing the one with its id.

        Two writers of one document: all chunks of one of the two stay, and none of the other's. When it fails, chunks
        of the old and the new may both be found, until the document is written again.
        """

    async def get(self, principal: Principal, collection: Collection, document_id: str) -> Document | None:
        """A document as it was written. None: there is none."""

    async def delete(self, principal: Principal, collection: Collection, document_ids: Sequence[str]) -> None:
        """Deletes documents; those that are not there are ignored."""

    async def search(self, principal: Principal, collections: Sequence[Collection], query: Query) -> Sequence[Hit]:
        """The chunks that match best, by falling score; of equal ones, by collection, document and number.

        In mode HYBRID the two rankings are merged by the sum of 1 / (60 + rank), ranks from 1
        (Cormack, Clarke and Büttcher 2009).
        """

    async def check(self) -> None:
        """Returns when the store answers."""
