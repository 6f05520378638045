"""A well-formed request of every RPC of the five services, from the names of the things it is about.

An RPC that has no row here makes tests fail by its name: whoever adds one says what it names and whose that is.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from myriad.common.v1 import common_pb2 as common
from myriad.memory.v1 import memory_pb2 as memory
from myriad.nlu.v1 import nlu_pb2 as nlu
from myriad.orchestrator.v1 import orchestrator_pb2 as orchestrator
from myriad.retrieval.v1 import retrieval_pb2 as retrieval
from myriad.toolexec.v1 import toolexec_pb2 as toolexec
from services.kit.topology import SERVICES


@dataclass(frozen=True)
class Names:
    """What requests are about. Without arguments: of nothing that is there."""

    agent: str
    collection: str
    document: str
    session: str
    run: str
    """A run that has ended."""
    held_run: str
    """A run that holds the session."""
    fencing_token: int

    @classmethod
    def absent(cls) -> "Names":
        """Names of nothing that is there, of the forms that are."""
        session = f"06{secrets.token_hex(13)}0"
        return cls(
            agent=f"a{secrets.token_hex(8)}",
            collection=f"c{secrets.token_hex(8)}",
            document=f"d{secrets.token_hex(8)}",
            session=session,
            run=f"{session}.1",
            held_run=f"{session}.2",
            fencing_token=2,
        )


class Owner(Enum):
    """Who alone finds what a request names."""

    TENANT = "tenant"
    USER = "user"


class Answer(Enum):
    """What an RPC answers to those who cannot find what they name."""

    NOT_FOUND = "not found"
    LEFT_OUT = "a list without it"
    THEIR_OWN = "it makes one of their own"


@dataclass(frozen=True)
class Row:
    """One RPC."""

    build: Callable[[Names], Message]
    owner: Owner
    answer: Answer = Answer.NOT_FOUND


def an_agent(name: str) -> common.Agent:
    """The agent that the rows are about: a tool that may be repeated, and knowledge."""
    tool = common.Tool(
        name="calculate",
        description="Calculates.",
        side_effect="SIDE_EFFECT_IDEMPOTENT",
        builtin=common.BuiltinTool(function="calculator"),
    )
    tool.parameters.update({"type": "object", "properties": {"expression": {"type": "string"}}})
    return common.Agent(name=name, persona="You help.", tools=[tool], model=common.ModelPolicy(model="sim_llm"))


def methods() -> list[MethodDescriptor]:
    """Every RPC of the five services, by its descriptor."""
    found = (Default().FindServiceByName(row.proto_service) for row in SERVICES.values())
    return [method for service in found for method in service.methods]


def path(method: MethodDescriptor) -> str:
    """`/myriad.memory.v1.MemoryService/GetSession`."""
    return f"/{method.containing_service.full_name}/{method.name}"


def service_of(method: MethodDescriptor) -> str:
    """The bare word of the topology."""
    (name,) = (row.name for row in SERVICES.values() if row.proto_service == method.containing_service.full_name)
    return name


async def ask(
    channel: Any, method: MethodDescriptor, request: Message, metadata: list[tuple[str, str]], *, most: int = 100
) -> list[Any]:
    """The replies of one RPC over a channel of grpc.aio; of a stream `most`, and it is left then.

    Raises:
        grpc.aio.AioRpcError: it was refused.
    """
    encode, decode = request.__class__.SerializeToString, GetMessageClass(method.output_type).FromString
    if not method.server_streaming:
        return [await channel.unary_unary(path(method), encode, decode)(request, metadata=metadata, timeout=10)]
    replies = []
    call = channel.unary_stream(path(method), encode, decode)(request, metadata=metadata, timeout=10)
    async for reply in call:
        replies.append(reply)
        if len(replies) == most:
            break
    call.cancel()
    return replies


def _ref(names: Names) -> common.AgentRef:
    return common.AgentRef(name=names.agent)


def _of_orchestrator() -> dict[str, Row]:
    pb, user, tenant = orchestrator, Owner.USER, Owner.TENANT
    return {
        "CreateSession": Row(lambda names: pb.CreateSessionRequest(agent=names.agent), tenant),
        "GetSession": Row(lambda names: pb.GetSessionRequest(session_id=names.session), user),
        "ListSessions": Row(lambda _: pb.ListSessionsRequest(), user, Answer.LEFT_OUT),
        "DeleteSession": Row(lambda names: pb.DeleteSessionRequest(session_id=names.session), user),
        "RunTurn": Row(lambda names: pb.RunTurnRequest(session_id=names.session, input="hello"), user),
        "WatchRun": Row(lambda names: pb.WatchRunRequest(run_id=names.run), user),
        "GetRun": Row(lambda names: pb.GetRunRequest(run_id=names.run), user),
        "CancelRun": Row(lambda names: pb.CancelRunRequest(run_id=names.run), user),
        "GetAgent": Row(lambda names: pb.GetAgentRequest(agent=names.agent), tenant),
        "ListAgents": Row(lambda _: pb.ListAgentsRequest(), tenant, Answer.LEFT_OUT),
    }


def _of_memory() -> dict[str, Row]:
    pb, user, tenant = memory, Owner.USER, Owner.TENANT

    def begin(names: Names) -> Message:
        return pb.BeginTurnRequest(session_id=names.session, lease=Duration(seconds=600))

    def commit(names: Names) -> Message:
        said = common.Message(role="ROLE_USER", content="hello")
        event = orchestrator.RunEvent(run_id=names.held_run, sequence=1, completed=orchestrator.RunCompleted())
        return pb.CommitTurnRequest(
            run_id=names.held_run,
            fencing_token=names.fencing_token,
            messages=[said],
            last_events=[event.SerializeToString()],
            first_sequence=1,
        )

    def abandon(names: Names) -> Message:
        event = orchestrator.RunEvent(run_id=names.held_run, sequence=1, cancelled=orchestrator.RunCancelled())
        return pb.AbandonTurnRequest(
            run_id=names.held_run,
            fencing_token=names.fencing_token,
            last_events=[event.SerializeToString()],
            first_sequence=1,
        )

    return {
        "CreateSession": Row(lambda names: pb.CreateSessionRequest(agent=names.agent), tenant),
        "GetSession": Row(lambda names: pb.GetSessionRequest(session_id=names.session), user),
        "ListSessions": Row(lambda _: pb.ListSessionsRequest(), user, Answer.LEFT_OUT),
        "DeleteSession": Row(lambda names: pb.DeleteSessionRequest(session_id=names.session), user),
        "BeginTurn": Row(begin, user),
        "CommitTurn": Row(commit, user),
        "AbandonTurn": Row(abandon, user),
        "GetHistory": Row(lambda names: pb.GetHistoryRequest(session_id=names.session), user),
        "PutAgent": Row(lambda names: pb.PutAgentRequest(agent=an_agent(names.agent)), tenant, Answer.THEIR_OWN),
        "GetAgent": Row(lambda names: pb.GetAgentRequest(agent=_ref(names)), tenant),
        "ListAgents": Row(lambda _: pb.ListAgentsRequest(), tenant, Answer.LEFT_OUT),
    }


def _of_nlu() -> dict[str, Row]:
    return {"Analyze": Row(lambda names: nlu.AnalyzeRequest(agent=_ref(names), text="hello"), Owner.TENANT)}


def _of_retrieval() -> dict[str, Row]:
    pb, tenant = retrieval, Owner.TENANT

    def create(names: Names) -> Message:
        return pb.CreateCollectionRequest(collection=pb.Collection(name=names.collection))

    def upsert(names: Names) -> Message:
        document = pb.Document(document_id=names.document, title="Title", text="Something about refunds.")
        return pb.UpsertDocumentsRequest(collection=names.collection, documents=[document])

    def get(names: Names) -> Message:
        return pb.GetDocumentRequest(collection=names.collection, document_id=names.document)

    def delete(names: Names) -> Message:
        return pb.DeleteDocumentsRequest(collection=names.collection, document_ids=[names.document])

    return {
        "CreateCollection": Row(create, tenant, Answer.THEIR_OWN),
        "ListCollections": Row(lambda _: pb.ListCollectionsRequest(), tenant, Answer.LEFT_OUT),
        "DeleteCollection": Row(lambda names: pb.DeleteCollectionRequest(collection=names.collection), tenant),
        "UpsertDocuments": Row(upsert, tenant),
        "GetDocument": Row(get, tenant),
        "DeleteDocuments": Row(delete, tenant),
        "Search": Row(lambda names: pb.SearchRequest(collections=[names.collection], query="refunds"), tenant),
    }


def _of_toolexec() -> dict[str, Row]:
    def execute(names: Names) -> Message:
        return toolexec.ExecuteRequest(
            agent=_ref(names),
            tool="calculate",
            arguments_json='{"expression": "6 * 7"}',
            run_id=names.held_run,
            idempotency_key="1:1",
        )

    return {
        "ListTools": Row(lambda names: toolexec.ListToolsRequest(agent=_ref(names)), Owner.TENANT),
        "Execute": Row(execute, Owner.TENANT),
    }


def _rows() -> Mapping[str, Row]:
    by_service = {
        "orchestrator": _of_orchestrator(),
        "memory": _of_memory(),
        "nlu": _of_nlu(),
        "retrieval": _of_retrieval(),
        "toolexec": _of_toolexec(),
    }
    return MappingProxyType(
        {
            f"/{SERVICES[service].proto_service}/{name}": row
            for service, rows in by_service.items()
            for name, row in rows.items()
        }
    )


ROWS = _rows()
"""By the path of the RPC."""
