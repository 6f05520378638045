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
from grpc.aio import AioRpcError
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.kit.breaker import FAIR_S, Breakers, Circuit
from services.kit.clients import Client
from services.kit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ModelFailed,
    ModelOverloaded,
    ModelUnavailable,
    ServiceError,
    Unavailable,
)
from services.kit.generation import LEAVE_S, Generation
from services.kit.status import from_rpc_error

MODELS = Circuit("model", ModelUnavailable, "the model tier does not answer", (ModelUnavailable, DeadlineExceeded))
"""The models of a tier. What answers with an error answers: one user's prompt must not take a model from the others."""

FIRST_CHUNK_S = 20.0
"""Seconds after which a model that has sent nothing of an answer is given up."""

_GENERATE = "/inference.GRPCInferenceService/ModelStreamInfer"
_RETRY_AFTER_S = 1.0
_BUSY = ("xceeds maximum queue size", "equest timeout expired")
_GONE = "Stub process"


class Triton:
    """Models of one Triton server."""

    def __init__(
        self,
        client: Client,
        *,
        embedder: str = "embedder",
        breakers: Breakers | None = None,
        first_chunk_s: float = FIRST_CHUNK_S,
    ) -> None:
        """Opens nothing.

        Args:
            client: Of the server.
            embedder: The model that makes vectors.
            breakers: Those of `MODELS`.
            first_chunk_s: Seconds the first chunk of an answer may take, the wait in the model's queue included.
        """
        self._client = client
        self._first_chunk_s = first_chunk_s
        self._breakers = breakers or Breakers(MODELS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
        # As a stream of requests, the one there is, the call and its end would leave in three writes instead of one.
        self._generate: Any = client.channel.unary_stream(
            _GENERATE,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._embedder = embedder
        self._leaving: set[asyncio.Task[None]] = set()

    async def embed(self, texts: Sequence[str], timeout: float) -> "list[array.array[float]]":
        """Unit vectors (float32), one per text.

        Args:
            texts: Texts, none of them empty.
            timeout: Seconds.

        Raises:
            ModelUnavailable: the tier does not answer, or did not of late.
            ModelOverloaded: the model's queue is full.
            ModelFailed: the model answered with an error, or with something else than vectors.
            DeadlineExceeded: it took too long.
        """
        if not texts:
            return []
        request = service_pb2.ModelInferRequest(model_name=self._embedder)
        tensor = request.inputs.add(name="text", datatype="BYTES")
        tensor.shape.extend((len(texts), 1))
        request.raw_input_contents.append(b"".join(_length_prefixed(text.encode()) for text in texts))
        # Not cut short when the caller leaves: Triton 2.51 never frees a request cancelled on top of its response.
        asking = asyncio.create_task(self._infer(request, timeout))
        try:
            reply = await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise
        return _vectors(reply, len(texts))

    async def chat(self, model: str, body: Mapping[str, Any], timeout: float) -> AsyncGenerator[dict[str, Any]]:
        """Streams an answer: `chat.completion.chunk` objects. Leaving the iteration frees the model's slot.

        Args:
            model: Name of the model.
            body: A chat-completions request.
            timeout: Seconds the whole answer may take.

        Raises:
            InvalidArgument: the model refused the request.
            ModelUnavailable: the tier does not answer, the model stays silent, or did so of late.
            ModelOverloaded: the model's queue is full.
            ModelFailed: the model answered with an error.
            DeadlineExceeded: it took too long.
        """
        request = service_pb2.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="request", datatype="BYTES")
        tensor.shape.append(1)
        request.raw_input_contents.append(_length_prefixed(orjson.dumps(body)))
        # Who has less time than a first chunk may take says nothing of the model when that has passed.
        with self._breakers.of(model).attempt(min(timeout, self._first_chunk_s)) as attempt:
            call = self._client.start(self._generate, request, timeout=timeout + LEAVE_S)
            generation = Generation(call, timeout, self._client.service, self._first_chunk_s)
            failure = ""
            try:
                # To the end of the stream, past the last chunk: see Generation.
                async with aclosing(generation.replies()) as replies:
                    async for reply in replies:
                        failure = failure or reply.error_message
                        if reply.infer_response.raw_output_contents:
                            attempt.worked()
                            yield _decoded(reply.infer_response.raw_output_contents[0][4:])
            except ServiceError as error:
                if generation.silent:
                    attempt.timed_out()
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
            raise ModelUnavailable(f"model {model} is not ready", retry_after=_RETRY_AFTER_S)

    async def _infer(self, request: service_pb2.ModelInferRequest, timeout: float) -> Any:
        with self._breakers.of(self._embedder).attempt(min(timeout, FAIR_S)):
            try:
                return await self._client.start(self._stub.ModelInfer, request, timeout=timeout)
            except AioRpcError as error:
                raise _said(error.details() or "") or _of_the_model(
                    from_rpc_error(error, self._client.service)
                ) from None


def _length_prefixed(value: bytes) -> bytes:
    """A BYTES element as KServe v2 lays it out: length as 4 bytes, little-endian, then the value."""
    return struct.pack("<I", len(value)) + value


def _vectors(reply: Any, count: int) -> "list[array.array[float]]":
    raw = reply.raw_output_contents[0] if reply.raw_output_contents else b""
    width, rest = divmod(len(raw), 4 * count)
    if rest or not width or any(list(output.shape) != [count, width] for output in reply.outputs):
        raise ModelFailed("the model answered with something that is no vectors")
    floats = array.array("f", raw)
    return [floats[start : start + width] for start in range(0, len(floats), width)]


def _decoded(chunk: bytes) -> Any:
    try:
        return orjson.loads(chunk)
    except ValueError:
        raise ModelFailed("the model answered with something that is no JSON") from None


def _of_the_model(error: ServiceError) -> ServiceError:
    """What a failed call of the tier is to our callers."""
    if isinstance(error, ModelFailed | ModelUnavailable | InvalidArgument | DeadlineExceeded):
        return error
    if isinstance(error, Unavailable):
        return ModelUnavailable("the model tier does not answer", retry_after=error.retry_after or _RETRY_AFTER_S)
    return ModelFailed("the model failed")


def _said(text: str) -> ServiceError | None:
    """What Triton's own words are to our callers. None: they say nothing beside their status.

    It reports a full queue and a timeout in it as UNAVAILABLE, and as INTERNAL that a model's process has died.
    """
    if any(words in text for words in _BUSY):
        return ModelOverloaded("the model tier is busy", retry_after=_RETRY_AFTER_S)
    if _GONE in text:
        return ModelUnavailable("the model does not answer", retry_after=_RETRY_AFTER_S)
    return None


def _model_error(message: str) -> ServiceError:
    """What an error within a stream is to our callers: its kind stands before the first colon."""
    kind, _, text = message.partition(": ")
    if kind == "invalid_request":
        return InvalidArgument(f"the model refused the request: {text}")
    if kind == "overloaded":
        return ModelOverloaded("the model tier is busy", retry_after=_RETRY_AFTER_S)
    own = kind == "internal"
    return (None if own else _said(message)) or ModelFailed("the model failed")
