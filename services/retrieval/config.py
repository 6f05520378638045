"""What retrieval is told. Variables: `MYRIAD_RETRIEVAL_<FIELD>`."""

from dataclasses import dataclass

from services.kit.config import secret


@dataclass(frozen=True)
class Config:
    """Defaults are for one machine."""

    triton_address: str = "127.0.0.1:8001"
    """Triton that serves the embedder: `host:port`."""

    embed_timeout: float = 10.0
    """Longest time for one batch of texts to be embedded, in seconds."""

    embed_batch: int = 32
    """Texts embedded in one call."""

    dimension: int = 384
    """Numbers in a vector of the embedder. Milvus keeps vectors of one width: another needs another prefix."""

    milvus_uri: str = "http://127.0.0.1:19530"
    """Milvus."""

    milvus_token: str = secret("")
    """`user:password` or API key for Milvus. Empty: it asks for none."""

    milvus_timeout: float = 5.0
    """Longest time of one call to Milvus, in seconds."""

    milvus_connect_timeout: float = 2.0
    """Longest time to reach Milvus, in seconds."""

    collection_prefix: str = "myriad"
    """What the names of our collections in Milvus begin with; letters, digits and underscores."""

    vector_index: str = "FLAT"
    """Milvus index of the embeddings, used when the collection is made. FLAT is exact; HNSW suits a large server."""

    analyzer: str = "english"
    """Milvus analyzer of the texts, used when the collection is made: how words are found and reduced to stems."""

    collection_ttl: float = 1.0
    """Seconds for which a search believes what it knows of a collection. Another process's change is seen after it."""

    collections_per_tenant: int = 1000
    """Collections a tenant may have. ListCollections shows at most 1,000."""
