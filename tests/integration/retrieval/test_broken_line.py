"""A Milvus whose connection breaks: pymilvus then gives gRPC's status where Milvus's own code stands otherwise."""

from contextlib import asynccontextmanager

import grpc
import pytest

from services.kit.breaker import Breakers, Rules, State
from services.kit.errors import VectorIndexUnavailable
from services.retrieval.adapters import milvus_search
from services.retrieval.adapters.milvus_client import MILVUS, Milvus, MilvusSettings


class Broken(grpc.GenericRpcHandler):
    """Lets everybody connect, and breaks off whatever they ask."""

    def __init__(self) -> None:
        self.asked = 0

    def service(self, handler_call_details):
        connects = handler_call_details.method.endswith("/Connect")

        async def behaviour(_body, context):
            if not connects:
                self.asked += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            return b""

        return grpc.unary_unary_rpc_method_handler(behaviour)


@asynccontextmanager
async def broken():
    handler, server = Broken(), grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, f"http://127.0.0.1:{port}"
    await server.stop(0)


async def nothing_to_prepare(_client):
    pass


async def test_a_broken_connection_is_the_vector_index_away_and_opens_the_circuit():
    async with broken() as (handler, uri):
        breaker = Breakers(MILVUS, Rules(2, 60.0)).of("milvus")
        milvus = Milvus(MilvusSettings(uri), nothing_to_prepare, breaker)
        for asked in (1, 2, 2):
            with pytest.raises(VectorIndexUnavailable) as away:
                await milvus.call(lambda client: client.list_collections(retry_times=0))
            assert away.value.retry_after > 0
            assert handler.asked == asked
        assert breaker.state is State.OPEN
        await milvus.close()


async def test_a_search_that_the_connection_breaks_under_is_asked_once_more():
    async with broken() as (handler, uri):
        milvus = Milvus(MilvusSettings(uri), nothing_to_prepare)
        request = milvus_search.ranking("chunks", "words", milvus_search.worded(["help"]), 'space == "a"', 5, ["title"])
        with pytest.raises(VectorIndexUnavailable):
            await milvus.call(lambda _client: milvus.search(request))
        assert handler.asked == 2
        await milvus.close()
