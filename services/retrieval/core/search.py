"""Search: what is looked for, where, and which part of a chunk is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import mul

from services.kit.call import Principal
from services.kit.errors import InvalidArgument
from services.retrieval.core.collections import Collections
from services.retrieval.domain import Hit, Mode, Query
from services.retrieval.ports import DocumentStore, Embedder

DEFAULT_TOP_K = 5
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Question:
    """A search as it was asked for."""

    collections: Sequence[str]
    text: str = ""
    embedding: Sequence[float] = ()
    """Empty: the text is embedded here."""
    mode: Mode = Mode.HYBRID
    top_k: int = 0
    """0: 5."""
    min_score: float = 0.0
    metadata: Mapping[str, str] = field(default_factory=dict)


class Search:
    """Finds chunks."""

    def __init__(self, collections: Collections, store: DocumentStore, embedder: Embedder, *, dimension: int) -> None:
        """Embeddings have `dimension` numbers."""
        self._collections = collections
        self._store = store
        self._embedder = embedder
        self._dimension = dimension

    async def search(self, principal: Principal, question: Question) -> Sequence[Hit]:
        """The chunks that match best, by falling score, without the spaces around them.

        Raises:
            InvalidArgument: the query is blank where it is used, or the embedding is none of the embedder's.
            CollectionNotFound: there is no such collection.
            ModelUnavailable: the query must be embedded, and the embedder does not answer.
            VectorIndexUnavailable: the store does not answer.
        """
        self._check(question)
        where = await self._collections.recall(principal, question.collections)
        query = Query(
            mode=question.mode,
            text=question.text,
            embedding=await self._embedding(question),
            top_k=question.top_k or DEFAULT_TOP_K,
            min_score=question.min_score,
            metadata=question.metadata,
        )
        hits = await self._store.search(principal, where, query)
        return [_trimmed(hit) for hit in hits if hit.text.strip()]

    def _check(self, question: Question) -> None:
        if not question.text.strip() and (question.mode is not Mode.DENSE or not question.embedding):
            raise _wrong("query", "must not be blank")
        if not question.embedding:
            return
        if len(question.embedding) != self._dimension:
            raise _wrong("embedding", f"must have {self._dimension} numbers, has {len(question.embedding)}")
        square = sum(map(mul, question.embedding, question.embedding))
        # Written so that NaN is refused, too.
        if not abs(square - 1.0) <= _UNIT_TOLERANCE:
            raise _wrong("embedding", "must have length 1")

    async def _embedding(self, question: Question) -> Sequence[float]:
        if question.mode is Mode.SPARSE or question.embedding:
            return question.embedding
        (embedding,) = await self._embedder.embed([question.text])
        return embedding


def _wrong(field_name: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"{field_name}: {text}", fields={field_name: text})


def _trimmed(hit: Hit) -> Hit:
    text = hit.text.lstrip()
    return replace(hit, start=hit.start + len(hit.text) - len(text), text=text.rstrip())
