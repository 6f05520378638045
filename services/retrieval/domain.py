"""What retrieval deals in. Offsets count code points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum


class Scope(IntEnum):
    """Who can see a collection; the numbers are the contract's."""

    TENANT = 1
    USER = 2


class Mode(IntEnum):
    """How chunks are matched; the numbers are the contract's."""

    DENSE = 1
    SPARSE = 2
    HYBRID = 3


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of documents."""

    name: str
    """Unique within the tenant."""
    scope: Scope
    description: str
    generation: int = 0
    """How many collections of this name were deleted before it: what was in those is not in this one."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was written."""

    document_id: str
    title: str
    text: str
    metadata: Mapping[str, str]
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document. A document's chunks, one after another, are its whole text."""

    start: int
    text: str


@dataclass(frozen=True, slots=True)
class IndexedDocument:
    """A document with what it is found by."""

    document: Document
    chunks: Sequence[Chunk]
    embeddings: Sequence[Sequence[float]]
    """One for each chunk, unit length."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, checked and embedded."""

    mode: Mode
    text: str
    """Used in modes SPARSE and HYBRID."""
    embedding: Sequence[float]
    """Unit length. Used in modes DENSE and HYBRID."""
    top_k: int
    min_score: float = 0.0
    """Least cosine similarity; 0: any. Not used in mode SPARSE."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Only documents with all of these."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that matches."""

    collection: str
    document_id: str
    title: str
    number: int
    """Place of the chunk among the document's, from 0."""
    start: int
    text: str
    score: float
    """Cosine similarity, BM25 or the sum of reciprocal ranks, by mode."""
