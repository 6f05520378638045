"""Interceptors around handlers, for whichever way a call comes in.

An interceptor is an async function around the rest of the chain. A `Registry` takes the place of a gRPC server when
servicers register, folds the chain around each of their methods, and hands the result to its two drivers: `serve.py`
(sockets) and `inproc.py` (this process). Handlers take and return bytes here, so that a request which cannot be decoded
meets the chain too, and leaves as INVALID_ARGUMENT like any other bad input.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from myriad.common.v1 import common_pb2
from services.kit.call import Call, enter
from services.kit.contracts import contract
from services.kit.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Method:
    """What the contract says of one method."""

    path: str
    descriptor: MethodDescriptor
    request_type: type[Message]
    streams: bool
    access: common_pb2.Access
    """Who may call it; empty when the contract does not say: no route leads to it."""


Proceed = Callable[[Call], Awaitable[Any]]
"""The rest of the chain, and the handler at its end."""

Interceptor = Callable[[Call, Method, Proceed], Awaitable[Any]]
"""Does its part, and returns what `proceed(call)` does."""


class Door(Protocol):
    """Who is refused before the chain, without a word of the request."""

    @property
    def refusal(self) -> ServiceError:
        """The error that whoever is refused gets."""

    def refuses(self, method: Method) -> bool:
        """Whether a call is refused that has just come over a socket."""


class Endpoint:
    """One method with its handler and the chain around it."""

    __slots__ = ("_proceed", "method")

    def __init__(self, method: Method, handler: Callable[[Any, Any], Any], interceptors: Sequence[Interceptor]) -> None:
        """Folds `interceptors`, the outermost first, around `handler`."""
        self.method = method
        self._proceed: Proceed = _sending(handler) if method.streams else _answering(handler)
        for interceptor in reversed(interceptors):
            self._proceed = _around(interceptor, method, self._proceed)

    async def unary(self, call: Call) -> bytes:
        """Answers a call.

        Raises:
            ServiceError: and nothing else, save cancellation.
        """
        enter(call)
        reply: bytes = await self._proceed(call)
        return reply

    async def stream(self, call: Call, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Answers a call with messages, each handed to `send`, which waits until there is room for it.

        Raises:
            ServiceError: and nothing else, save cancellation and what `send` raises.
        """
        enter(call)
        call.send = send
        await self._proceed(call)


def _around(interceptor: Interceptor, method: Method, proceed: Proceed) -> Proceed:
    return lambda call: interceptor(call, method, proceed)


def _answering(handler: Callable[[Any, Any], Any]) -> Proceed:
    async def answer(call: Call) -> bytes:
        reply: Message = await handler(call.request, call)
        return reply.SerializeToString()

    return answer


def _sending(handler: Callable[[Any, Any], Any]) -> Proceed:
    async def send_all(call: Call) -> None:
        send = call.send
        assert send is not None
        async with aclosing(handler(call.request, call)) as replies:
            async for reply in replies:
                await send(reply.SerializeToString())

    return send_all


class Registry:
    """Stands where generated code expects a gRPC server: `add_NluServiceServicer_to_server(servicer, registry)`."""

    def __init__(self, interceptors: Sequence[Interceptor], door: Door | None = None) -> None:
        """Folds `interceptors`, the outermost first, around every method registered. None: there is no door."""
        self.endpoints: dict[str, Endpoint] = {}
        self.door = door
        self._interceptors = tuple(interceptors)

    @property
    def services(self) -> Iterable[str]:
        """Full names of the services registered."""
        return sorted({path.split("/")[1] for path in self.endpoints})

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """Generated code registers twice; the other registration names the methods and is the one used."""

    def add_registered_method_handlers(self, service: str, method_handlers: dict[str, Any]) -> None:
        """Takes the handlers of one servicer."""
        for descriptor in contract(service).methods:
            handler = method_handlers[descriptor.name]
            path = f"/{service}/{descriptor.name}"
            options = descriptor.GetOptions()
            access: common_pb2.Access = options.Extensions[common_pb2.access]  # type: ignore[index]
            request_type = GetMessageClass(descriptor.input_type)
            method = Method(path, descriptor, request_type, bool(handler.response_streaming), access)
            function = handler.unary_stream if method.streams else handler.unary_unary
            self.endpoints[path] = Endpoint(method, function, self._interceptors)
