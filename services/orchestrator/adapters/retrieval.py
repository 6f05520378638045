"""The retrieval service."""

from collections.abc import Sequence

from myriad.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from services.kit.clients import Client
from services.orchestrator.codec import citations_of
from services.orchestrator.domain.agent import Knowledge
from services.orchestrator.domain.turn import Citation


class RetrievalClient:
    """`ports.Retrieval` over gRPC."""

    def __init__(self, client: Client, timeout_s: float) -> None:
        """Calls over `client`, and waits `timeout_s` seconds."""
        self._client = client
        self._timeout_s = timeout_s
        self._stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)

    async def search(self, knowledge: Knowledge, text: str, embedding: Sequence[float]) -> tuple[Citation, ...]:
        """The facts that match best."""
        request = retrieval_pb2.SearchRequest(
            collections=knowledge.collections,
            query=text,
            embedding=embedding,
            mode=retrieval_pb2.SEARCH_MODE_HYBRID,
            top_k=knowledge.top_k,
            min_score=knowledge.min_score,
        )
        reply = await self._client.unary(self._stub.Search, request, timeout=self._timeout_s)
        return citations_of(reply.hits)
