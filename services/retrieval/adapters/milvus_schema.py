"""What we keep in Milvus: two collections, made when they are not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymilvus import AsyncMilvusClient, CollectionSchema, DataType, Function, FunctionType

from services.retrieval.core.spaces import KEY_LENGTH

REVISION_LENGTH = 20
NUMBER_LENGTH = 6
_BYTES_PER_CODE_POINT = 4
_MOST_BYTES = 65_535

# The contract's limits.
_NAME = 63
_DOCUMENT_ID = 128
_TITLE = 300 * _BYTES_PER_CODE_POINT
_DESCRIPTION = 1000 * _BYTES_PER_CODE_POINT
_FACTS = 32
_FACT = _NAME + 1 + 500 * _BYTES_PER_CODE_POINT

REGISTRY_DIMENSION = 2
"""Milvus wants a vector in every collection, and searches none here."""


@dataclass(frozen=True)
class Layout:
    """How our collections are named and indexed."""

    prefix: str
    dimension: int
    vector_index: str
    analyzer: str

    @property
    def chunks(self) -> str:
        """Collection of Milvus: one row a chunk, of all tenants; which rows are whose is in the field `space`."""
        return f"{self.prefix}_chunks"

    @property
    def registry(self) -> str:
        """Collection of Milvus: one row for each collection of a tenant that is or was.

        The row of a deleted one stays, a few hundred bytes: its generation keeps what was in it from coming back.
        """
        return f"{self.prefix}_collections"

    async def prepare(self, client: AsyncMilvusClient) -> None:
        """Makes what is not there, and has Milvus load it. May be repeated, also after it was cut short."""
        await _make(client, self.chunks, _chunks(self), _chunk_indexes(self))
        await _make(client, self.registry, _registry(), {"vector": {"index_type": "FLAT", "metric_type": "IP"}})


async def _make(
    client: AsyncMilvusClient, name: str, schema: CollectionSchema, indexes: Mapping[str, Mapping[str, Any]]
) -> None:
    if not await client.has_collection(name, retry_times=0):
        # Strong: what was written is found by the next search, in any process.
        await client.create_collection(name, schema=schema, consistency_level="Strong", retry_times=0)
    indexed = await client.list_indexes(name, retry_times=0)
    for field, index in indexes.items():
        if field not in indexed:
            params = AsyncMilvusClient.prepare_index_params()
            params.add_index(field, index_name=field, **index)
            await client.create_index(name, params, retry_times=0)
    await client.load_collection(name, retry_times=0)


def _chunk_indexes(layout: Layout) -> dict[str, dict[str, Any]]:
    return {
        "embedding": {"index_type": layout.vector_index, "metric_type": "IP"},
        "words": {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"},
    }


def _chunks(layout: Layout) -> CollectionSchema:
    schema = AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    text = DataType.VARCHAR
    schema.add_field("key", text, is_primary=True, max_length=KEY_LENGTH + REVISION_LENGTH + NUMBER_LENGTH)
    schema.add_field("space", text, max_length=KEY_LENGTH)
    schema.add_field("collection", text, max_length=KEY_LENGTH)
    schema.add_field("document", text, max_length=KEY_LENGTH)
    schema.add_field("revision", text, max_length=REVISION_LENGTH)
    schema.add_field("number", DataType.INT64)
    schema.add_field("count", DataType.INT64)
    schema.add_field("start", DataType.INT64)
    schema.add_field("update_time", DataType.INT64)
    schema.add_field("document_id", text, max_length=_DOCUMENT_ID)
    schema.add_field("title", text, max_length=_TITLE)
    # Title, a line break, text: what is matched by words.
    analyzer = {"type": layout.analyzer}
    schema.add_field("content", text, max_length=_MOST_BYTES, enable_analyzer=True, analyzer_params=analyzer)
    schema.add_field("metadata", DataType.ARRAY, element_type=text, max_capacity=_FACTS, max_length=_FACT)
    schema.add_field("labels", DataType.ARRAY, element_type=text, max_capacity=_FACTS, max_length=KEY_LENGTH)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=layout.dimension)
    schema.add_field("words", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(Function("bm25", FunctionType.BM25, ["content"], ["words"]))
    return schema


def _registry() -> CollectionSchema:
    schema = AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=KEY_LENGTH)
    schema.add_field("tenant", DataType.VARCHAR, max_length=KEY_LENGTH)
    schema.add_field("name", DataType.VARCHAR, max_length=_NAME)
    schema.add_field("scope", DataType.INT64)
    schema.add_field("description", DataType.VARCHAR, max_length=_DESCRIPTION)
    schema.add_field("generation", DataType.INT64)
    schema.add_field("deleted", DataType.BOOL)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=REGISTRY_DIMENSION)
    return schema
