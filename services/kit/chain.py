"""Interceptors around handlers, for whichever way a call comes in.

An interceptor is an async context manager over a `Call`. A `Registry` takes the place of a gRPC server when servicers
register, folds the chain around each of their methods, and hands the result to its two drivers: `serve.py` (sockets)
and `inproc.py` (this process). Handlers take and return bytes here, so that a request which cannot be decoded meets
the chain too, and leaves as INVALID_ARGUMENT like any other bad input.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.kit.call import Call, enter


@dataclass(frozen=True, slots=True)
class Method:
    """What the contract says of one method."""

    path: str
    descriptor: MethodDescriptor
    request_type: type[Message]
    streams: bool


Interceptor = Callable[[Call, Method], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method with its handler and the chain around it."""

    method: Method
    handler: Callable[[Any, Any], Any]
    interceptors: Sequence[Interceptor]

    async def unary(self, call: Call) -> bytes:
        """Answers a call.

        Raises:
            ServiceError: and nothing else, save cancellation.
        """
        enter(call)
        async with AsyncExitStack() as stack:
            for interceptor in self.interceptors:
                await stack.enter_async_context(interceptor(call, self.method))
            reply: Message = await self.handler(call.request, call)
        return reply.SerializeToString()

    async def stream(self, call: Call, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Answers a call with messages, each handed to `send`, which waits until there is room for it.

        Raises:
            ServiceError: and nothing else, save cancellation and what `send` raises.
        """
        enter(call)
        async with AsyncExitStack() as stack:
            for interceptor in self.interceptors:
                await stack.enter_async_context(interceptor(call, self.method))
            replies = await stack.enter_async_context(aclosing(self.handler(call.request, call)))
            async for reply in replies:
                await send(reply.SerializeToString())


class Registry:
    """Stands where generated code expects a gRPC server: `add_NluServiceServicer_to_server(servicer, registry)`."""

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        """Folds `interceptors`, the outermost first, around every method registered."""
        self.endpoints: dict[str, Endpoint] = {}
        self._interceptors = tuple(interceptors)

    @property
    def services(self) -> Iterable[str]:
        """Full names of the services registered."""
        return sorted({path.split("/")[1] for path in self.endpoints})

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """Generated code registers twice; the other registration names the methods and is the one used."""

    def add_registered_method_handlers(self, service: str, method_handlers: dict[str, Any]) -> None:
        """Takes the handlers of one servicer."""
        described = descriptor_pool.Default().FindServiceByName(service)
        for descriptor in described.methods:
            handler = method_handlers[descriptor.name]
            path = f"/{service}/{descriptor.name}"
            method = Method(path, descriptor, GetMessageClass(descriptor.input_type), bool(handler.response_streaming))
            function = handler.unary_stream if method.streams else handler.unary_unary
            self.endpoints[path] = Endpoint(method, function, self._interceptors)
