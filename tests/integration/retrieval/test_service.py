"""The service as it is served: over a socket, with Milvus, and an embedder that hashes words."""

import asyncio
import signal
import socket
import struct
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from myriad.retrieval.v1 import retrieval_pb2 as pb
from myriad.retrieval.v1 import retrieval_pb2_grpc
from services.kit.app import App, Kit, ready
from services.kit.call import Principal, work_as
from services.kit.clients import Client
from services.kit.errors import (
    CollectionNotFound,
    InvalidArgument,
    ModelUnavailable,
    ServiceError,
    Unavailable,
    VectorIndexUnavailable,
)
from services.kit.grpc_server import grpc_server
from services.kit.telemetry import open_telemetry
from services.retrieval.adapters.inmemory import InMemoryEmbedder
from services.retrieval.adapters.milvus import MilvusDocumentStore
from services.retrieval.adapters.milvus_client import MilvusSettings
from services.retrieval.adapters.milvus_schema import Layout
from services.retrieval.app import build
from services.retrieval.config import Config
from services.retrieval.domain import Chunk, Collection, Document, IndexedDocument, Mode, Query, Scope
from tests.support.milvus import running_milvus, start_milvus, stop
from tests.support.ports import free_port

TEXT = "A refund takes 30 days."


class HashingTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A Triton whose embedder hashes words."""

    async def ModelReady(self, request: object, context: object) -> object:
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelInfer(self, request: service_pb2.ModelInferRequest, context: object) -> object:
        raw, texts = request.raw_input_contents[0], []
        while raw:
            (length,) = struct.unpack_from("<I", raw)
            texts.append(raw[4 : 4 + length].decode())
            raw = raw[4 + length :]
        vectors = await InMemoryEmbedder(384).embed(texts)
        packed = b"".join(struct.pack("<384f", *vector) for vector in vectors)
        return service_pb2.ModelInferResponse(raw_output_contents=[packed])


@asynccontextmanager
async def hashing_triton() -> AsyncIterator[str]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(HashingTriton(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@asynccontextmanager
async def served(config: Config) -> AsyncIterator[tuple[Client, App]]:
    kit = Kit(open_telemetry("retrieval", "", 0.0), None)
    app = await build(config, kit)
    server, _ = grpc_server([kit.registry(app)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield kit.network.client("retrieval", f"127.0.0.1:{port}"), app
    await server.stop(0)
    for closer in reversed(app.closers):
        await closer()
    await kit.network.close()


@pytest.fixture(scope="module")
async def triton() -> AsyncIterator[str]:
    async with hashing_triton() as address:
        yield address


@pytest.fixture(scope="module")
async def milvus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with running_milvus(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture(scope="module")
async def retrieval(milvus: str, triton: str) -> AsyncIterator[Client]:
    async with served(Config(triton_address=triton, milvus_uri=milvus)) as (client, _):
        yield client


@pytest.fixture
async def tenant() -> str:
    name = f"tenant-{uuid.uuid4().hex}"
    act_as(name)
    return name


def act_as(tenant: str, user: str = "ann") -> None:
    work_as(Principal(tenant, user), name="test", timeout=60.0)


async def make(client: Client, name: str = "faq") -> None:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)
    request = pb.CreateCollectionRequest(collection=pb.Collection(name=name))
    await client.unary(stub.CreateCollection, request, timeout=20)


async def write(client: Client, document_id: str = "returns", text: str = TEXT) -> None:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)
    documents = [pb.Document(document_id=document_id, title="Returns", text=text)]
    await client.unary(
        stub.UpsertDocuments, pb.UpsertDocumentsRequest(collection="faq", documents=documents), timeout=20
    )


async def search(client: Client, query: str = "refund", timeout: float = 20, **settings: object) -> list[str]:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)
    request = pb.SearchRequest(**{"collections": ["faq"], "query": query, **settings})  # type: ignore[arg-type]
    reply = await client.unary(stub.Search, request, timeout=timeout)
    return [hit.text for hit in reply.hits]


async def test_what_is_written_is_found_with_its_citation(retrieval: Client, tenant: str) -> None:
    await make(retrieval)
    await write(retrieval)
    assert await search(retrieval) == [TEXT]
    act_as(f"other-{tenant}")
    with pytest.raises(CollectionNotFound):
        await search(retrieval)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"query": ""}, ""),
        ({"query": "", "mode": pb.SEARCH_MODE_SPARSE, "embedding": [1.0] * 384}, "query"),
        ({"embedding": [1.0] * 383}, "embedding"),
        ({"embedding": [0.0, float("nan")]}, "embedding[1]"),
        ({"top_k": 101}, "top_k"),
        ({"min_score": 1.5}, "min_score"),
        ({"collections": []}, "collections"),
        ({"collections": ["faq"] * 2}, "collections"),
        ({"collections": ['x" or 1 == 1']}, "collections[0]"),
        ({"filter": {"KEY": "x"}}, "filter[KEY]"),
        ({"mode": 9}, "mode"),
        ({"query": "a\x00b"}, "query"),
    ],
)
async def test_wrong_searches_are_refused_with_the_field(
    retrieval: Client, tenant: str, settings: dict[str, Any], field: str
) -> None:
    await make(retrieval)
    with pytest.raises(InvalidArgument) as caught:
        await search(retrieval, **settings)
    assert field in caught.value.fields


async def test_words_of_the_text_are_found_by_their_stem(retrieval: Client, tenant: str) -> None:
    await make(retrieval)
    await write(retrieval, "parcels", "Parcels were returned unopened.")
    await write(retrieval, "invoice", "An invoice is sent by mail.")
    found = await search(retrieval, "a parcel", mode=pb.SEARCH_MODE_SPARSE)
    assert found == ["Parcels were returned unopened."]


async def test_a_dead_embedder_stops_only_what_needs_it(milvus: str, triton: str, tenant: str) -> None:
    async with served(Config(triton_address=triton, milvus_uri=milvus)) as (client, _):
        await make(client)
        await write(client)
    async with served(Config(triton_address=f"127.0.0.1:{free_port()}", milvus_uri=milvus)) as (client, app):
        with pytest.raises(ModelUnavailable):
            await search(client)
        (vector,) = await InMemoryEmbedder(384).embed(["refund"])
        assert await search(client, embedding=vector) == [TEXT]
        assert await search(client, mode=pb.SEARCH_MODE_SPARSE) == [TEXT]
        with pytest.raises(Unavailable, match="embedder"):
            await ready(app.checks)


async def test_it_starts_without_milvus_and_recovers_when_milvus_comes_and_goes(
    tmp_path: Path, triton: str, tenant: str
) -> None:
    port = free_port()
    config = Config(triton_address=triton, milvus_uri=f"http://127.0.0.1:{port}")
    async with served(config) as (client, app):
        with pytest.raises(Unavailable, match="milvus"):
            await ready(app.checks)
        began = time.monotonic()
        with pytest.raises(VectorIndexUnavailable) as caught:
            await search(client)
        assert time.monotonic() - began < 2.0
        assert caught.value.retry_after
        first = await start_milvus(tmp_path, port)
        await until_ready(app, 30.0)
        await make(client)
        await write(client)
        await stop(first)
        with pytest.raises(VectorIndexUnavailable):
            await search(client)
        second = await start_milvus(tmp_path, port)
        try:
            await until_ready(app, 30.0)
            assert await search(client) == [TEXT]
        finally:
            await stop(second)


async def test_a_milvus_that_never_answers_costs_no_more_than_its_timeout(triton: str, tenant: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", free_port()))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = Config(triton_address=triton, milvus_uri=uri, milvus_timeout=1.0, milvus_connect_timeout=0.5)
        async with served(config) as (client, _):
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(VectorIndexUnavailable):
                    await search(client)
                assert time.monotonic() - began < 4.0  # pymilvus alone would take 10 s


async def test_a_milvus_that_hangs_costs_no_more_than_its_timeout_and_goes_on_later(
    tmp_path: Path, triton: str, tenant: str
) -> None:
    port = free_port()
    process = await start_milvus(tmp_path, port)
    config = Config(triton_address=triton, milvus_uri=f"http://127.0.0.1:{port}", milvus_timeout=3.0)
    async with served(config) as (client, _):
        try:
            await make(client)
            await write(client)
            process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(VectorIndexUnavailable):
                await search(client)
            assert 2.5 < time.monotonic() - began < 7.0
            process.send_signal(signal.SIGCONT)
            assert await once_found(client) == [TEXT]
        finally:
            await stop(process)


async def test_a_milvus_that_comes_back_empty_is_made_ready_again(tmp_path: Path, triton: str, tenant: str) -> None:
    port = free_port()
    first = await start_milvus(tmp_path / "first", port)
    async with served(Config(triton_address=triton, milvus_uri=f"http://127.0.0.1:{port}")) as (client, app):
        await make(client)
        await stop(first)
        with pytest.raises(VectorIndexUnavailable):
            await search(client)
        second = await start_milvus(tmp_path / "second", port)
        try:
            await until_ready(app, 30.0)
            with pytest.raises(CollectionNotFound):
                await write(client)
            await make(client)
            await write(client)
            assert await search(client) == [TEXT]
        finally:
            await stop(second)


async def test_a_callers_deadline_ends_a_wait_for_milvus(triton: str, tenant: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", free_port()))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with served(Config(triton_address=triton, milvus_uri=uri)) as (client, _):
            began = time.monotonic()
            with pytest.raises(ServiceError):
                await search(client, timeout=0.3)
            assert time.monotonic() - began < 2.0


async def test_no_word_of_the_store_reaches_the_caller(tmp_path: Path, triton: str, tenant: str) -> None:
    config = Config(triton_address=triton, milvus_uri=f"http://127.0.0.1:{free_port()}")
    async with served(config) as (client, _):
        with pytest.raises(VectorIndexUnavailable) as caught:
            await search(client)
    assert str(caught.value) == "the vector index does not answer"


async def test_rows_of_a_write_that_was_cut_short_are_not_the_document(milvus: str, tenant: str) -> None:
    principal = Principal(tenant, "ann")
    store = CutShort(MilvusSettings(milvus), Layout("cut", 2, "FLAT", "english"))
    where = await store.create(principal, Collection("faq", Scope.TENANT, ""))
    await store.put(principal, where, [indexed("old one ", "old two")])
    store.rows_left = 3
    with pytest.raises(VectorIndexUnavailable):
        await store.put(principal, where, [indexed("new one ", "new two ", "new three ", "new four")])
    found = await store.get(principal, where, "d")
    assert found is not None and found.text == "old one old two"
    store.rows_left = None
    await store.put(principal, where, [indexed("newest")])
    query = Query(Mode.DENSE, "", [1.0, 0.0], top_k=100)
    assert [hit.text for hit in await store.search(principal, [where], query)] == ["newest"]
    await store.close()


class CutShort(MilvusDocumentStore):
    """Dies after it has written some rows."""

    rows_left: int | None = None

    async def _insert(self, rows: list[dict[str, object]]) -> None:
        await super()._insert(rows if self.rows_left is None else rows[: self.rows_left])
        if self.rows_left is not None:
            raise VectorIndexUnavailable("killed")


def indexed(*texts: str) -> IndexedDocument:
    document = Document("d", "", "".join(texts), {}, datetime.now(UTC))
    starts = [len("".join(texts[:i])) for i in range(len(texts))]
    chunks = [Chunk(start, text) for start, text in zip(starts, texts, strict=True)]
    return IndexedDocument(document, chunks, [[1.0, 0.0]] * len(chunks))


async def until_ready(app: App, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await ready(app.checks)
            except Unavailable:
                await asyncio.sleep(0.1)


async def once_found(client: Client) -> list[str]:
    """What is found once Milvus answers in time."""
    async with asyncio.timeout(30):
        while True:
            with suppress(VectorIndexUnavailable):
                return await search(client)
            await asyncio.sleep(0.1)
