"""What searches of Milvus find, and two rankings as one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from operator import itemgetter, mul
from typing import Any

from services.retrieval.adapters.milvus_rows import number_in
from services.retrieval.domain import Hit, Mode, Query

RRF_K = 60

SHOWN = ("space", "document_id", "title", "content", "start")
"""Fields that are asked for of what is found."""

VECTOR = "embedding"
"""Asked for, too, of what is found by its words when there is a least cosine: it is computed here."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rows of a `SearchResultData` that answer one question, best first."""

    found: Any
    rows: range

    def keys(self) -> Sequence[str]:
        """Primary keys."""
        keys: Sequence[str] = self.found.ids.str_id.data[self.rows.start : self.rows.stop]
        return keys

    def hit(self, names: Mapping[str, str], row: int, score: float) -> Hit:
        """A row as a chunk; `names` has the collection of each space."""
        fields = {field.field_name: field.scalars for field in self.found.fields_data if field.HasField("scalars")}
        space, document_id, title, content = (fields[name].string_data.data[row] for name in SHOWN[:-1])
        start, key = fields["start"].long_data.data[row], self.found.ids.str_id.data[row]
        return Hit(names[space], document_id, title, number_in(key), start, content[len(title) + 1 :], score)

    def cosine(self, row: int, embedding: Sequence[float]) -> float:
        """How near a row is to an embedding, by the vector in it."""
        (field,) = (field for field in self.found.fields_data if field.field_name == VECTOR)
        width, numbers = field.vectors.dim, field.vectors.float_vector.data
        return float(sum(map(mul, numbers[row * width : (row + 1) * width], embedding)))


def rankings(found: Any, questions: int) -> list[Ranking]:
    """The answers to so many questions that were asked together. Raises ValueError: there are not as many."""
    ends = accumulate(found.topks or [0] * questions, initial=0)
    return [Ranking(found, range(*span)) for _, span in zip(range(questions), pairwise(ends), strict=True)]


def hits(names: Mapping[str, str], found: Sequence[Ranking], query: Query) -> Sequence[Hit]:
    """The best chunks of one ranking, or of two, the dense one first."""
    if query.mode is Mode.HYBRID:
        dense, sparse = found
        best = islice(_merged(dense, sparse, query), query.top_k)
        return [ranking.hit(names, row, score) for ranking, row, score in best]
    (ranking,) = found
    scores = ranking.found.scores
    least = query.min_score if query.mode is Mode.DENSE and query.min_score else None
    return [ranking.hit(names, row, scores[row]) for row in ranking.rows if least is None or scores[row] >= least]


def _merged(dense: Ranking, sparse: Ranking, query: Query) -> Iterator[tuple[Ranking, int, float]]:
    """Rows by the sum of reciprocal ranks, those left out that are farther away than the query allows."""
    sums: dict[str, float] = {}
    places: dict[str, tuple[Ranking, int]] = {}
    for ranking in (dense, sparse):
        for rank, (key, row) in enumerate(zip(ranking.keys(), ranking.rows, strict=True), start=1):
            sums[key] = sums.get(key, 0.0) + 1 / (RRF_K + rank)
            places.setdefault(key, (ranking, row))
    for key, score in sorted(sums.items(), key=itemgetter(1), reverse=True):
        ranking, row = places[key]
        if not query.min_score or _cosine(ranking, row, dense, query) >= query.min_score:
            yield ranking, row, score


def _cosine(ranking: Ranking, row: int, dense: Ranking, query: Query) -> float:
    return float(dense.found.scores[row]) if ranking is dense else ranking.cosine(row, query.embedding)
