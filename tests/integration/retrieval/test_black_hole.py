"""A Milvus that takes connections and never answers: told by the caller's deadline, and at once when it is known."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from services.kit.breaker import Breakers, Rules, State
from services.kit.call import Call, Principal, enter
from services.kit.errors import VectorIndexUnavailable
from services.retrieval.adapters.milvus import MilvusDocumentStore
from services.retrieval.adapters.milvus_client import MILVUS, MilvusSettings
from services.retrieval.adapters.milvus_schema import Layout
from tests.support.milvus import running_milvus
from tests.support.ports import free_port

ALICE = Principal("acme", "alice")
STEP_S = 1.2
REST_S = 0.5


@asynccontextmanager
async def silent(port):
    """Somebody who listens on `port` and says nothing."""
    open_writers = []
    server = await asyncio.start_server(lambda _reader, writer: open_writers.append(writer), "127.0.0.1", port)
    async with server:
        try:
            yield
        finally:
            for writer in open_writers:
                writer.transport.abort()


@asynccontextmanager
async def store_at(port, failures=2):
    breaker = Breakers(MILVUS, Rules(failures, REST_S)).of("milvus")
    store = MilvusDocumentStore(
        MilvusSettings(f"http://127.0.0.1:{port}"), Layout("test", 8, "FLAT", "english"), breaker
    )
    try:
        yield store, breaker
    finally:
        await store.close()


async def asked(store, within=STEP_S):
    """Seconds until a call that has so much time says that Milvus is away."""

    async def ask():
        enter(Call("test", {}, asyncio.get_running_loop().time() + within, "test", principal=ALICE))
        await store.find(ALICE, ["help"])

    began = time.perf_counter()
    with pytest.raises(VectorIndexUnavailable) as away:
        await asyncio.create_task(ask())
    assert away.value.retry_after > 0
    return time.perf_counter() - began


async def test_it_is_told_before_the_deadline_then_at_once_and_it_comes_back(tmp_path):
    port = free_port()
    async with store_at(port) as (store, breaker):
        async with silent(port):
            assert min([await asked(store) for _ in range(2)]) <= STEP_S
            assert breaker.state is State.OPEN
            assert await asked(store) <= STEP_S / 4
        async with running_milvus(tmp_path, port=port):
            began = time.perf_counter()
            while True:
                try:
                    await store.find(ALICE, ["help"])
                    break
                except VectorIndexUnavailable:
                    assert time.perf_counter() - began < 20
                    await asyncio.sleep(0.05)
            assert breaker.state is State.CLOSED


async def test_callers_in_a_hurry_do_not_open_the_circuit():
    port = free_port()
    async with silent(port), store_at(port) as (store, breaker):
        assert min([await asked(store, within=0.1) for _ in range(5)]) <= 0.15
        assert breaker.state is State.CLOSED


async def test_readiness_asks_although_the_circuit_is_open():
    async with store_at(free_port(), failures=1) as (store, breaker):
        await asked(store)
        assert breaker.state is State.OPEN
        with pytest.raises(VectorIndexUnavailable) as refused:
            await store.find(ALICE, ["help"])
        with pytest.raises(VectorIndexUnavailable) as away:
            await store.check()
        assert (refused.value.metadata, away.value.metadata) == ({"circuit": "open"}, {})
