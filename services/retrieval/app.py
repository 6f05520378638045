"""Builds retrieval: who is wired to whom."""

from datetime import UTC, datetime

from myriad.retrieval.v1 import retrieval_pb2_grpc
from services.kit.app import App, Kit
from services.kit.embedder import TritonEmbedder
from services.kit.triton import MODELS, Triton
from services.retrieval.adapters.milvus import MilvusDocumentStore
from services.retrieval.adapters.milvus_client import MILVUS, MilvusSettings
from services.retrieval.adapters.milvus_schema import Layout
from services.retrieval.config import Config
from services.retrieval.core.collections import Collections
from services.retrieval.core.documents import Documents
from services.retrieval.core.search import Search
from services.retrieval.servicer import RetrievalServicer

_CHECK_S = 2.0


async def build(config: Config, kit: Kit) -> App:
    """The service, over the Milvus and the Triton that the configuration names. It starts without either."""
    triton = Triton(kit.network.client("triton", config.triton_address), breakers=kit.breakers(MODELS))
    embedder = TritonEmbedder(triton, config.embed_timeout)
    store = MilvusDocumentStore(
        MilvusSettings(config.milvus_uri, config.milvus_token, config.milvus_timeout, config.milvus_connect_timeout),
        Layout(config.collection_prefix, config.dimension, config.vector_index, config.analyzer),
        kit.breakers(MILVUS).of("milvus"),
    )
    collections = Collections(store, allowed=config.collections_per_tenant, ttl=config.collection_ttl)
    servicer = RetrievalServicer(
        collections,
        Documents(collections, store, embedder, batch=config.embed_batch),
        Search(collections, store, embedder, dimension=config.dimension),
        clock=lambda: datetime.now(UTC),
    )

    async def check_embedder() -> None:
        await triton.check("embedder", _CHECK_S)

    return App(
        name="retrieval",
        add_to=lambda server: retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, server),
        checks={"milvus": store.check, "embedder": check_embedder},
        closers=[store.close],
    )
