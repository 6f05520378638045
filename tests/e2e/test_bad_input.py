"""What is not there, what is not public, and bytes that are no message: told clearly, over every face.

Beside it: `test_bad_input_rest` (JSON, paths, headers, sizes), `_openapi` (requests made from the contract), `_wire`
(mutated protobufs, straight to each service), `_model` (a model that talks junk).
"""

import grpc
import pytest

from myriad.orchestrator.v1 import run_pb2
from tests.support.client import face, put_agent
from tests.support.hostile import told
from tests.support.leaks import leaks


@pytest.fixture(scope="module")
async def user(stack):
    await put_agent(stack, "player")
    async with face(stack) as made:
        yield made


@pytest.fixture(scope="module")
async def session(user):
    return await user.session("player")


async def test_a_page_token_nobody_gave_is_refused_by_name(user):
    reply = await user.http.get("/v1/sessions?page_token=garbage")
    assert (reply.status_code, reply.json()["details"][1]["field_violations"][0]["field"]) == (400, "page_token")


ABSENT = [
    ("GET", "/v1/sessions/absent", "SESSION_NOT_FOUND"),
    ("DELETE", "/v1/sessions/absent", "SESSION_NOT_FOUND"),
    ("POST", "/v1/sessions/absent:run", "SESSION_NOT_FOUND"),
    ("GET", "/v1/runs/absent.1", "RUN_NOT_FOUND"),
    ("GET", "/v1/runs/absent.1:watch", "RUN_NOT_FOUND"),
    ("POST", "/v1/runs/absent.1:cancel", "RUN_NOT_FOUND"),
    ("GET", "/v1/agents/absent", "AGENT_NOT_FOUND"),
]


@pytest.mark.parametrize(("method", "path", "reason"), ABSENT)
async def test_what_is_not_there_is_not_found(user, method, path, reason):
    body = {"input": "hi"} if path.endswith(":run") else {} if method == "POST" else None
    reply = await user.http.request(method, path, json=body)
    assert reply.status_code == 404, reply.text
    assert reply.json()["details"][0]["reason"] == reason
    assert not leaks(told(reply.json()))


async def test_a_session_with_an_unknown_agent_is_not_made(user):
    reply = await user.http.post("/v1/sessions", json={"agent": "absent"})
    assert (reply.status_code, reply.json()["details"][0]["reason"]) == (404, "AGENT_NOT_FOUND")


@pytest.mark.parametrize(
    "method",
    [
        "/myriad.memory.v1.MemoryService/PutAgent",
        "/myriad.memory.v1.MemoryService/BeginTurn",
        "/myriad.toolexec.v1.ToolExecService/Execute",
        "/myriad.retrieval.v1.RetrievalService/Search",
        "/myriad.nlu.v1.NluService/Analyze",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/inference.GRPCInferenceService/ModelInfer",
    ],
)
async def test_a_method_that_is_not_public_has_no_route(user, method):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await user.channel.unary_unary(method)(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await user.http.post(method, json={})).status_code == 404


async def test_bytes_that_are_no_message_are_refused_over_grpc(user):
    for body, field in ((b"\xff\xff\xff", None), (b"\x0a\x01s\x12\x02\xff\xfe", "input")):
        call = user.channel.unary_stream("/myriad.orchestrator.v1.OrchestratorService/RunTurn")(
            body, metadata=user.metadata
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field is None or field in raised.value.details()


async def test_an_unknown_enum_over_grpc_names_its_field(user, session):
    request = run_pb2.RunTurnRequest(session_id=session, input="hi", on_disconnect=42)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await user.stub.RunTurn(request, metadata=user.metadata).read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "on_disconnect" in raised.value.details()
