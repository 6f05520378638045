"""Hybrid search at ten thousand chunks: through the retrieval service, and of Milvus without it."""

import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from pymilvus import AnnSearchRequest, AsyncMilvusClient, RRFRanker

from myriad.retrieval.v1 import retrieval_pb2 as pb
from myriad.retrieval.v1 import retrieval_pb2_grpc
from services.dev.bench import asking
from services.dev.bench.asking import Bench, Say
from services.dev.bench.load import Load, closed_loop
from services.dev.bench.section import Section, number

CHUNKS = 10_000
SEARCHES = 1000
AT_ONCE = (1, 32, 256)
QUESTIONS = 50
"""Different ones; the embedder takes so many at once."""
_TOP_K = 5
_CANDIDATES = 50
_BATCH = 100
_COLLECTION = "bench"
_WORDS = 2_000
_TARGETS = {("by embedding", 32): 250, ("by text", 32): 120}
_PARTS = ("retrieval", "milvus", "triton")

Searched = tuple[Load, list[float]]
"""A load, and CPU milliseconds a search of each of `_PARTS`."""

Measured = dict[tuple[str, int], Searched]
"""What came of each way, by so many at once."""


async def section(work: Path, say: Say) -> Section:
    """Fills a collection and searches it four ways."""
    async with asking.running(work, vertical=False, say=say) as bench:
        texts = _texts()
        await _fill(bench, texts, say)
        questions = texts[:: CHUNKS // QUESTIONS]
        say("searching")
        found = await _search(bench, questions) | await _direct(bench, questions)
    rows = [
        ["", "searches/s", "target", "p50 ms", "p99 ms", "errors", *(f"CPU ms a search, {part}" for part in _PARTS)]
    ]
    for (name, workers), (load, cpu_ms) in found.items():
        target = f">= {_TARGETS[name, workers]}" if (name, workers) in _TARGETS else ""
        rate = f"**{load.rate:.0f}**" if target else number(load.rate)
        p50, p99 = number(load.percentile_ms(0.5)), number(load.percentile_ms(0.99))
        rows.append([f"{name}, {workers} at once", rate, target, p50, p99, str(load.errors), *map(number, cpu_ms)])
    return Section("Hybrid search", _ABOUT, rows)


async def _measured(bench: Bench, name: str, call: Callable[[int, int], Awaitable[bool]]) -> Measured:
    found = {}
    for workers in AT_ONCE:
        count = SEARCHES // 5 if workers == 1 else SEARCHES
        await closed_loop(workers, max(workers, count // 10), call)
        pids = {part: bench.pids()[part] for part in _PARTS}
        before = asking.usage_of(pids)
        load = await closed_loop(workers, count, call)
        after = asking.usage_of(pids)
        found[name, workers] = load, [(after[part].cpu_s - before[part].cpu_s) * 1000 / count for part in _PARTS]
    return found


def _texts() -> list[str]:
    """Short texts of a vocabulary in which some words are much more frequent than others, as in any language."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefghijklmnoprstuvw", k=chance.randint(3, 9))) for _ in range(_WORDS)]
    weights = [1 / (rank + 1) for rank in range(_WORDS)]
    return [" ".join(chance.choices(vocabulary, weights, k=12)) + "." for _ in range(CHUNKS)]


async def _fill(bench: Bench, texts: Sequence[str], say: Say) -> None:
    client = bench.network.client("retrieval", bench.stack.address("retrieval"))
    stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)
    made = pb.CreateCollectionRequest(collection=pb.Collection(name=_COLLECTION))
    await client.unary(stub.CreateCollection, made, timeout=asking.TIMEOUT_S)
    for first in range(0, len(texts), _BATCH):
        documents = [
            pb.Document(document_id=str(first + index), title="text", text=text)
            for index, text in enumerate(texts[first : first + _BATCH])
        ]
        request = pb.UpsertDocumentsRequest(collection=_COLLECTION, documents=documents)
        await client.unary(stub.UpsertDocuments, request, timeout=asking.TIMEOUT_S)
        if first % 1000 == 0:
            say(f"{first} of {len(texts)} texts written")


async def _search(bench: Bench, questions: Sequence[str]) -> Measured:
    client = bench.network.client("retrieval", bench.stack.address("retrieval"))
    stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)
    vectors = await bench.triton.embed(questions, asking.TIMEOUT_S)

    async def ask(request: pb.SearchRequest) -> bool:
        reply = await client.unary(stub.Search, request, timeout=asking.TIMEOUT_S)
        return len(reply.hits) == _TOP_K

    async def by_text(_worker: int, index: int) -> bool:
        text = questions[index % len(questions)]
        return await ask(pb.SearchRequest(collections=[_COLLECTION], query=text, top_k=_TOP_K))

    async def by_embedding(_worker: int, index: int) -> bool:
        text, vector = questions[index % len(questions)], vectors[index % len(questions)]
        request = pb.SearchRequest(collections=[_COLLECTION], query=text, top_k=_TOP_K)
        request.embedding.extend(vector)
        return await ask(request)

    return await _measured(bench, "by embedding", by_embedding) | await _measured(bench, "by text", by_text)


async def _direct(bench: Bench, questions: Sequence[str]) -> Measured:
    """The same two rankings and their merging, asked of Milvus with its own client, and of Triton for embeddings."""
    vectors = await bench.triton.embed(questions, asking.TIMEOUT_S)
    client = AsyncMilvusClient(uri=f"http://{bench.stack.address('milvus')}")
    names = await client.list_collections()
    chunks = next(name for name in names if "chunks" in name)

    async def ask(text: str, vector: Sequence[float]) -> bool:
        requests = [
            AnnSearchRequest([list(vector)], "embedding", {"metric_type": "IP"}, _CANDIDATES),
            AnnSearchRequest([text], "words", {"metric_type": "BM25"}, _CANDIDATES),
        ]
        found: Any = await client.hybrid_search(
            chunks, requests, RRFRanker(60), limit=_TOP_K, output_fields=["title", "content"]
        )
        return len(found[0]) == _TOP_K

    async def by_embedding(_worker: int, index: int) -> bool:
        return await ask(questions[index % len(questions)], vectors[index % len(questions)])

    async def by_text(_worker: int, index: int) -> bool:
        text = questions[index % len(questions)]
        (vector,) = await bench.triton.embed([text], asking.TIMEOUT_S)
        return await ask(text, vector)

    try:
        found = await _measured(bench, "Milvus without us, by embedding", by_embedding)
        return found | await _measured(bench, "Triton and Milvus without us, by text", by_text)
    finally:
        await client.close()


_ABOUT = f"""
{CHUNKS:,} texts of twelve words in one collection, the {_TOP_K} best of a dense and a BM25 ranking merged, asked
of the retrieval service; *without us* is the same search with Milvus's own client, without the filter that keeps
tenants apart; by text, after the embedder was asked directly.
"""
