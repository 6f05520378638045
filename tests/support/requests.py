"""A well-formed request of every RPC of every service, from the names of the things it is about.

The rows of a service stand in `tests/support/rows/<service>.py`. An RPC that has none makes tests fail by its name:
whoever adds one says what it names and whose that is.
"""

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from myriad.orchestrator.v1 import run_pb2
from services.kit.contracts import contract
from services.kit.errors import ServiceError
from services.kit.status import from_proto
from services.kit.topology import SERVICES
from tests.support.rows.row import Answer, Names, Owner, Row, an_agent

__all__ = ["ROWS", "Answer", "Names", "Owner", "an_agent", "ask", "methods", "path", "refused_item", "service_of"]


def methods() -> list[MethodDescriptor]:
    """Every RPC of every service, by its descriptor."""
    return [method for row in SERVICES.values() for method in contract(row.proto_service).methods]


def method_of(name: str) -> MethodDescriptor:
    """The RPC that is named as `memory.GetSession`."""
    service, _, rpc = name.partition(".")
    (method,) = (each for each in methods() if (service_of(each), each.name) == (service, rpc))
    return method


def path(method: MethodDescriptor) -> str:
    """`/myriad.memory.v1.MemoryService/GetSession`."""
    return f"/{method.containing_service.full_name}/{method.name}"


def service_of(method: MethodDescriptor) -> str:
    """The bare word of the topology."""
    (name,) = (row.name for row in SERVICES.values() if row.proto_service == method.containing_service.full_name)
    return name


async def ask(
    channel: Any,
    method: MethodDescriptor,
    request: Message,
    metadata: list[tuple[str, str]],
    *,
    most: int = 100,
    timeout: float = 10,
) -> list[Any]:
    """The replies of one RPC over a channel of grpc.aio; of a stream `most`, and it is left then.

    Raises:
        grpc.aio.AioRpcError: it was refused.
    """
    encode, decode = request.__class__.SerializeToString, GetMessageClass(method.output_type).FromString
    if not method.server_streaming:
        return [await channel.unary_unary(path(method), encode, decode)(request, metadata=metadata, timeout=timeout)]
    replies = []
    call = channel.unary_stream(path(method), encode, decode)(request, metadata=metadata, timeout=timeout)
    async for reply in call:
        replies.append(reply)
        if len(replies) == most:
            break
    call.cancel()
    return replies


def refused_item(replies: Sequence[Any]) -> ServiceError | None:
    """Why the item of a batch of one was refused. None: it was not, or this is no batch."""
    match replies:
        case [run_pb2.CreateRunsResponse(results=[item])] if item.HasField("error"):
            return from_proto(item.error)
    return None


def _rows() -> Mapping[str, Row]:
    found: dict[str, Row] = {}
    for service in SERVICES.values():
        rows: dict[str, Row] = importlib.import_module(f"tests.support.rows.{service.name}").rows()
        found |= {f"/{service.proto_service}/{name}": row for name, row in rows.items()}
    return MappingProxyType(found)


ROWS = _rows()
"""By the path of the RPC."""
