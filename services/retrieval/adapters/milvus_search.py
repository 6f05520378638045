"""Searches in Milvus's own protocol, with pymilvus's generated stub but without its client.

The client wraps each call in tasks of its own (headers, retries), checks and copies much that is not used here: that
is half of the time that a search takes on this side. All else goes through it (`milvus_client.py`).
"""

import base64
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
from pymilvus.client.connection_manager import ConnectionConfig
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

_SERVICE = "milvus.proto.milvus.MilvusService"
# A search may be repeated; what failed otherwise than by the connection would fail again. Source: gRFC A6.
_ONCE_MORE = {
    "methodConfig": [
        {
            "name": [{"service": _SERVICE}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Searches:
    """The channel that searches go over. Bound to the event loop it is made in."""

    def __init__(self, uri: str, token: str, options: Mapping[str, Any]) -> None:
        """Opens nothing yet; `uri` and `token` are read as pymilvus reads them, `options` are the channel's."""
        config = ConnectionConfig.from_uri(uri, token=token)
        arguments = [
            *options.items(),
            ("grpc.service_config", json.dumps(_ONCE_MORE)),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        if dict(config.handler_kwargs).get("secure"):
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.aio.secure_channel(config.address, credentials, options=arguments)
        else:
            self._channel = grpc.aio.insecure_channel(config.address, options=arguments)
        self._stub = milvus_pb2_grpc.MilvusServiceStub(self._channel)
        self._metadata = [("dbname", config.db_name)]
        if config.token:
            self._metadata.append(("authorization", base64.b64encode(config.token.encode()).decode()))

    async def search(self, request: Any) -> Any:
        """What is found, a `SearchResultData`; the caller sets a limit on the wait.

        Args:
            request: What `ranking` made.

        Raises:
            MilvusException: Milvus would not.
            grpc.RpcError: it did not answer.
        """
        reply = await self._stub.Search(request, metadata=self._metadata)
        check_status(reply.status)
        return reply.results

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


def near(embeddings: Iterable[Sequence[float]]) -> Any:
    """What rankings by meaning are asked with."""
    values = [array("f", embedding).tobytes() for embedding in embeddings]
    return common_pb2.PlaceholderValue(tag="$0", type=common_pb2.FloatVector, values=values)


def worded(texts: Iterable[str]) -> Any:
    """What rankings by words are asked with."""
    values = [text.encode() for text in texts]
    return common_pb2.PlaceholderValue(tag="$0", type=common_pb2.VarChar, values=values)


def ranking(
    collection: str, field: str, asked: Any, where: str, limit: int, fields: Sequence[str], **parameters: Any
) -> Any:
    """A request for the best rows by one field, for each of the questions in it.

    Args:
        collection: Of Milvus.
        field: The field.
        asked: What `near` or `worded` made.
        where: The filter.
        limit: How many rows.
        fields: Those to be shown.
        **parameters: `metric_type`, and `params`, those of the index.
    """
    settings = {"anns_field": field, "topk": limit, "round_decimal": -1, "params": {}, **parameters}
    return milvus_pb2.SearchRequest(
        collection_name=collection,
        dsl=where,
        dsl_type=common_pb2.BoolExprV1,
        placeholder_group=common_pb2.PlaceholderGroup(placeholders=[asked]).SerializeToString(),
        nq=len(asked.values),
        output_fields=fields,
        search_params=_pairs(settings),
        use_default_consistency=True,
    )


def _pairs(settings: Mapping[str, Any]) -> list[Any]:
    return [
        common_pb2.KeyValuePair(key=name, value=value if isinstance(value, str) else json.dumps(value))
        for name, value in settings.items()
    ]
