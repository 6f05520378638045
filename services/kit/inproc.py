"""A `grpc.aio.Channel` to this very process, so that generated stubs run without a socket.

The same handlers behind the same chain answer. Messages cross as bytes, never by reference; errors as code, message and
trailing metadata; cancelling the caller cancels the handler; a stream holds one message and is closed when left early.
tests/contract/test_transport.py holds this channel and a real socket against one list of behaviours.
"""

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from typing import Any

import grpc
from grpc.aio import AioRpcError, Channel, Metadata

from services.kit.call import Call
from services.kit.chain import Endpoint, Registry
from services.kit.errors import ServiceError, ServiceUnavailable, Unimplemented
from services.kit.interceptors.identity import INPROC_PEER
from services.kit.status import to_status


class InprocChannel(Channel):
    """Calls the handlers of one service that this process serves."""

    def __init__(self, registries: Mapping[str, Registry], service: str) -> None:
        """Calls `service`, looked up in `registries` at each call: services of one process start in any order."""
        self._registries = registries
        self._service = service
        self._closed = False

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_args: Any, **_kw: Any
    ) -> Any:
        """What a generated stub holds for a method with one reply."""
        return _Method(self, method, request_serializer, response_deserializer, _UnaryCall)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_args: Any, **_kw: Any
    ) -> Any:
        """What a generated stub holds for a method with a stream of replies."""
        return _Method(self, method, request_serializer, response_deserializer, _StreamCall)

    def stream_unary(self, *_args: Any, **_kw: Any) -> Any:
        """Refused: no contract of ours streams requests."""
        raise Unimplemented("streams of requests do not cross this channel")

    def stream_stream(self, *_args: Any, **_kw: Any) -> Any:
        """Refused: no contract of ours streams requests."""
        raise Unimplemented("streams of requests do not cross this channel")

    def find(self, method: str) -> Endpoint:
        """The endpoint that answers a method.

        Raises:
            ServiceUnavailable: the service is not served here, or the channel is closed.
            Unimplemented: the service has no such method.
        """
        registry = self._registries.get(self._service)
        if registry is None or self._closed:
            raise ServiceUnavailable(f"{self._service} does not answer", retry_after=1.0)
        if method not in registry.endpoints:
            raise Unimplemented(f"{self._service} has no such method")
        return registry.endpoints[method]

    async def close(self, grace: float | None = None) -> None:
        """Refuses further calls."""
        self._closed = True

    async def __aenter__(self) -> "InprocChannel":
        """Nothing to open."""
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Closes."""
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Always ready until closed."""
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns at once: the state changes only by `close`."""

    async def channel_ready(self) -> None:
        """Returns at once."""


class _Method:
    """A method of a stub: calling it begins a call."""

    def __init__(
        self, channel: InprocChannel, path: str, encode: Any, decode: Any, kind: Callable[..., "_InprocCall"]
    ) -> None:
        self._channel, self._path, self._encode, self._decode, self._kind = channel, path, encode, decode, kind

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] | None = None,
        **_kw: Any,
    ) -> "_InprocCall":
        loop = asyncio.get_running_loop()
        call = Call(
            method=self._path,
            metadata={key: value for key, value in metadata or () if not key.endswith("-bin")},
            deadline=None if timeout is None else loop.time() + timeout,
            peer=INPROC_PEER,
            body=self._encode(request),
        )
        return self._kind(self._channel, call, self._decode)


class _InprocCall(ABC):
    """What the two kinds of call share: the handler's task, and how it ended."""

    def __init__(self, channel: InprocChannel, call: Call, decode: Callable[[bytes], Any]) -> None:
        self._call = call
        self._decode = decode
        self._error: AioRpcError | None = None
        # A fresh context: the handler learns from the caller what metadata tells it, as over a socket.
        self._task = asyncio.get_running_loop().create_task(self._run(channel), context=contextvars.Context())

    async def _run(self, channel: InprocChannel) -> Any:
        try:
            return await self._answer(channel.find(self._call.method))
        except ServiceError as error:
            status = to_status(error)
            trailers = Metadata(*status.trailers)
            self._error = AioRpcError(status.code, Metadata(), trailers, details=status.message)
            return None

    @abstractmethod
    async def _answer(self, endpoint: Endpoint) -> Any:
        """Has the endpoint answer; returns what the caller awaits."""

    def cancel(self) -> bool:
        """Stops the handler. False: it had ended."""
        return self._task.cancel()

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._task.cancelled()

    def done(self) -> bool:
        """Whether the handler has ended."""
        return self._task.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back with this call when the handler has ended."""
        self._task.add_done_callback(lambda _task: callback(self))

    def time_remaining(self) -> float | None:
        """Seconds until the deadline."""
        return self._call.remaining()

    async def code(self) -> grpc.StatusCode:
        """How the call ended; waits until it has."""
        await asyncio.wait([self._task])
        if self._task.cancelled():
            return grpc.StatusCode.CANCELLED
        return self._error.code() if self._error else grpc.StatusCode.OK

    async def details(self) -> str | None:
        """Message of the status; waits until the call has ended."""
        await asyncio.wait([self._task])
        return self._error.details() if self._error else ""

    async def initial_metadata(self) -> Metadata:
        """What the handler sent ahead of its reply; waits until the call has ended."""
        await asyncio.wait([self._task])
        return Metadata(*self._call.reply_metadata.items())

    async def trailing_metadata(self) -> Metadata:
        """What came with the status; waits until the call has ended."""
        await asyncio.wait([self._task])
        return self._error.trailing_metadata() if self._error else Metadata()


class _UnaryCall(_InprocCall):
    """A call with one reply: await it."""

    async def _answer(self, endpoint: Endpoint) -> bytes:
        return await endpoint.unary(self._call)

    def __await__(self) -> Generator[Any, None, Any]:
        # Awaiting the task itself: who cancels the awaiting task cancels the handler.
        reply = yield from self._task.__await__()
        if self._error is not None:
            raise self._error
        return self._decode(reply)


class _StreamCall(_InprocCall):
    """A call with a stream of replies: iterate it."""

    def __init__(self, channel: InprocChannel, call: Call, decode: Callable[[bytes], Any]) -> None:
        self._slot: bytes | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        super().__init__(channel, call, decode)
        self._task.add_done_callback(lambda _task: self._readable.set())

    async def _answer(self, endpoint: Endpoint) -> None:
        await endpoint.stream(self._call, self._send)

    async def _send(self, message: bytes) -> None:
        await self._writable.wait()
        self._writable.clear()
        self._slot = message
        self._readable.set()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._replies()

    async def _replies(self) -> AsyncIterator[Any]:
        try:
            while (message := await self._next()) is not None:
                yield self._decode(message)
        finally:
            self.cancel()

    async def _next(self) -> bytes | None:
        await self._readable.wait()
        message, self._slot = self._slot, None
        if message is not None:
            if not self._task.done():
                self._readable.clear()
            self._writable.set()
            return message
        if self._error is not None:
            raise self._error
        if self._task.cancelled():
            raise asyncio.CancelledError
        self._task.result()
        return None
