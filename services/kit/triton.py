"""The model tier over gRPC: texts to vectors, chats to streams of chunks.

Speaks the KServe v2 protocol with the generated stub of the tritonclient package, not with its client object: a call
then has our deadline, is traced like any other, and is cancelled when the caller leaves. Models: triton_repo/README.md.
"""

import array
import asyncio
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.kit.clients import Client
from services.kit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ModelFailed,
    ModelUnavailable,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from services.kit.generation import LEAVE_S, Generation

_BUSY = ("xceeds maximum queue size", "equest timeout expired")


class Triton:
    """Models of one Triton server."""

    def __init__(self, client: Client, *, embedder: str = "embedder") -> None:
        """Calls over `client`; `embedder` is the model that makes vectors."""
        self._client = client
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
        self._embedder = embedder
        self._leaving: set[asyncio.Task[None]] = set()

    async def embed(self, texts: Sequence[str], timeout: float) -> "list[array.array[float]]":
        """Unit vectors (float32), one per text.

        Args:
            texts: Texts, none of them empty.
            timeout: Seconds.

        Raises:
            ModelUnavailable: the tier does not answer, or its queue is full.
            ModelFailed: the model answered with an error.
        """
        if not texts:
            return []
        request = service_pb2.ModelInferRequest(model_name=self._embedder)
        tensor = request.inputs.add(name="text", datatype="BYTES")
        tensor.shape.extend((len(texts), 1))
        request.raw_input_contents.append(b"".join(_length_prefixed(text.encode()) for text in texts))
        # Not cut short when the caller leaves: Triton 2.51 never frees a request cancelled on top of its response.
        asking = asyncio.create_task(self._client.unary(self._stub.ModelInfer, request, timeout=timeout))
        try:
            reply = await asyncio.shield(asking)
        except ServiceError as error:
            raise _of_the_model(error) from None
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        floats = array.array("f", reply.raw_output_contents[0])
        width = len(floats) // len(texts)
        return [floats[start : start + width] for start in range(0, len(floats), width)]

    async def chat(self, model: str, body: Mapping[str, Any], timeout: float) -> AsyncGenerator[dict[str, Any]]:
        """Streams an answer: `chat.completion.chunk` objects. Leaving the iteration frees the model's slot.

        Args:
            model: Name of the model.
            body: A chat-completions request.
            timeout: Seconds the whole answer may take.

        Raises:
            InvalidArgument: the model refused the request.
            ModelUnavailable: the tier does not answer, or its queue is full.
            ModelFailed: the model answered with an error.
            DeadlineExceeded: it took too long.
        """
        request = service_pb2.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="request", datatype="BYTES")
        tensor.shape.append(1)
        request.raw_input_contents.append(_length_prefixed(orjson.dumps(body)))
        call = self._client.start(self._stub.ModelStreamInfer, iter((request,)), timeout=timeout + LEAVE_S)
        generation = Generation(call, timeout, self._client.service)
        failure = ""
        try:
            # To the end of the stream, past the last chunk: see Generation.
            async with aclosing(generation.replies()) as replies:
                async for reply in replies:
                    failure = failure or reply.error_message
                    if reply.infer_response.raw_output_contents:
                        yield orjson.loads(reply.infer_response.raw_output_contents[0][4:])
        except ServiceError as error:
            raise _of_the_model(error) from None
        finally:
            if not generation.ended:
                leaving = asyncio.create_task(generation.leave())
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
        if failure:
            raise _model_error(failure)

    async def check(self, model: str, timeout: float) -> None:
        """Returns when `model` can answer.

        Raises:
            ModelUnavailable: it cannot.
        """
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            reply = await self._client.unary(self._stub.ModelReady, request, timeout=timeout)
        except ServiceError as error:
            raise _of_the_model(error) from None
        if not reply.ready:
            raise ModelUnavailable(f"model {model} is not ready", retry_after=1.0)


def _length_prefixed(value: bytes) -> bytes:
    """A BYTES element as KServe v2 lays it out: length as 4 bytes, little-endian, then the value."""
    return struct.pack("<I", len(value)) + value


def _of_the_model(error: ServiceError) -> ServiceError:
    """What a failed call of the tier is to our callers.

    Triton reports a full queue and a timeout in it as UNAVAILABLE, and a failing model as INTERNAL.
    """
    if isinstance(error, ModelFailed | ModelUnavailable | InvalidArgument | DeadlineExceeded | ResourceExhausted):
        return error
    if isinstance(error, Unavailable):
        return ModelUnavailable("the model tier does not answer", retry_after=error.retry_after or 1.0)
    return ModelFailed("the model failed")


def _model_error(message: str) -> ServiceError:
    """What an error within a stream is to our callers: its kind stands before the first colon."""
    kind, _, text = message.partition(": ")
    if kind == "invalid_request":
        return InvalidArgument(f"the model refused the request: {text}")
    if kind == "overloaded" or any(text in message for text in _BUSY):
        return ModelUnavailable("the model tier is busy", retry_after=1.0)
    return ModelFailed("the model failed")
