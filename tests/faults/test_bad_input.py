"""What is out of range is refused before any part behind a service hears of it."""

import grpc
import pytest

from myriad.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tests.support.client import metric

OUT_OF_RANGE = {
    "top_k": [101, 10**9, 2**32 - 1],
    "min_score": [-0.1, 1.1, float("nan"), float("inf"), float("-inf")],
    "embedding[1]": [[0.5, float("nan")], [0.5, float("inf")]],
    "embedding": [[0.1] * 4097],
    "mode": [-1, 77, 2**31 - 1],
    "query": ["x" * 8_001, "word " * 1_000_000],
}
SEARCHED = b"myriad_chunks"
"""What every search names."""


async def test_numbers_out_of_range_reach_neither_the_embedder_nor_the_index(rig, user):
    searches = rig.links["retrieval", "milvus"].asking

    async def asked():
        return await metric(rig.stack, "nv_inference_request_success"), searches.marks[SEARCHED]

    searches.count(SEARCHED)
    async with grpc.aio.insecure_channel(rig.stack.address("retrieval")) as channel:
        search = retrieval_pb2_grpc.RetrievalServiceStub(channel).Search
        before = await asked()
        for named, values in OUT_OF_RANGE.items():
            for value in values:
                request = retrieval_pb2.SearchRequest(collections=["desk-facts"], query="parcels")
                if named.startswith("embedding"):
                    request.embedding.extend(value)
                else:
                    setattr(request, named, value)
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await search(request, metadata=user.metadata, timeout=10)
                assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (named, str(value)[:50])
                assert named in raised.value.details()
        assert await asked() == before
        request = retrieval_pb2.SearchRequest(collections=["desk-facts"], query="parcels")
        assert len((await search(request, metadata=user.metadata, timeout=10)).hits) == 1
        assert all(now > then for now, then in zip(await asked(), before, strict=True))  # the control
