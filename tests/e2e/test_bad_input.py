"""Bad input gets a clear answer with the field's name, before any backend is touched, over every face."""

from pathlib import Path

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support.client import face, put_agent

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[2]
LEAKS = ("Traceback", "google.protobuf", "services.", "127.0.0.1", str(ROOT), "grpc.aio", "redis", "site-packages")


@pytest.fixture(scope="module")
async def user(stack):
    await put_agent(stack, "player")
    async with face(stack) as made:
        yield made


@pytest.fixture(scope="module")
async def session(user):
    return await user.session("player")


BAD = [
    ("POST", "/v1/sessions", {"agent": ""}, "agent"),
    ("POST", "/v1/sessions", {"agent": "No Such!"}, "agent"),
    ("POST", "/v1/sessions", {"agent": "a" * 64}, "agent"),
    ("POST", "/v1/sessions", {"agent": "player", "request_id": "x y"}, "request_id"),
    ("POST", "/v1/sessions", {}, "agent"),
    ("GET", "/v1/sessions/has%20space", None, "session_id"),
    ("GET", "/v1/sessions?page_size=-1", None, "page_size"),
    ("GET", "/v1/sessions?page_size=101", None, "page_size"),
    ("GET", "/v1/sessions?page_token=%7B%7D", None, "page_token"),
    ("GET", "/v1/sessions?page_token=garbage", None, "page_token"),
    ("GET", "/v1/runs/none", None, "run_id"),
    ("GET", "/v1/runs/s.0", None, "run_id"),
    ("GET", "/v1/runs/s.99999999999", None, "run_id"),
    ("POST", "/v1/runs/x:cancel", {}, "run_id"),
    ("GET", "/v1/agents/UPPER", None, "agent"),
    ("POST", "/v1/sessions/{session}:run", {"input": ""}, "input"),
    ("POST", "/v1/sessions/{session}:run", {}, "input"),
    ("POST", "/v1/sessions/{session}:run", {"input": " \n\t "}, "input"),
    ("POST", "/v1/sessions/{session}:run", {"input": "x" * 8001}, "input"),
    ("POST", "/v1/sessions/{session}:run", {"input": "bell\u0007"}, "input"),
    ("POST", "/v1/sessions/{session}:run", {"input": "nul\u0000"}, "input"),
    ("POST", "/v1/sessions/{session}:run", {"input": "hi", "on_disconnect": 7}, "on_disconnect"),
    ("POST", "/v1/sessions/{session}:run", {"input": "hi", "request_id": "x" * 65}, "request_id"),
]


@pytest.mark.parametrize(("method", "path", "body", "field"), BAD)
async def test_a_bad_field_is_named(user, session, method, path, body, field):
    reply = await user.http.request(method, path.format(session=session), json=body)
    assert reply.status_code == 400, reply.text
    violations = [v for detail in reply.json()["details"] for v in detail.get("field_violations", ())]
    violations += [v for detail in reply.json()["details"] for v in detail.get("fieldViolations", ())]
    assert [violation["field"] for violation in violations] == [field]
    assert not any(leak in reply.text for leak in LEAKS)


MALFORMED = [
    ("POST", "/v1/sessions", b"{"),
    ("POST", "/v1/sessions", b'{"agent": "player"} trailing'),
    ("POST", "/v1/sessions", b"[]"),
    ("POST", "/v1/sessions", b'{"agent": 5}'),
    ("POST", "/v1/sessions", b'{"agent": "\xff\xfe"}'),
    ("POST", "/v1/sessions/x:run", b'{"input": "hi", "on_disconnect": "SOMETIMES"}'),
    ("GET", "/v1/runs/s.1:watch?after_sequence=-1", b""),
    ("GET", "/v1/runs/s.1:watch?after_sequence=99999999999", b""),
    ("GET", "/v1/sessions?nonsense=1", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), MALFORMED)
async def test_what_is_no_request_is_refused(user, method, path, body):
    reply = await user.http.request(method, path, content=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["code"] == 3
    assert not any(leak in reply.text for leak in LEAKS)


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
    assert not any(leak in reply.text for leak in LEAKS)


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
    request = pb.RunTurnRequest(session_id=session, input="hi", on_disconnect=42)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await user.stub.RunTurn(request, metadata=user.metadata).read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "on_disconnect" in raised.value.details()
