"""JSON and server-sent events through Envoy."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from google.api import annotations_pb2  # type: ignore[import-untyped]
from google.protobuf.descriptor import MethodDescriptor

from myriad.orchestrator.v1 import run_pb2, sessions_pb2
from services.kit.contracts import contract
from services.kit.topology import SERVICES
from tests.integration.edge.envoys import Edge

JSON = {"content-type": "application/json"}


async def events(reply: httpx.Response) -> AsyncIterator[dict[str, object]]:
    """The events of a stream, each as soon as it is there."""
    async for line in reply.aiter_lines():
        if line:
            assert line.startswith("data: ")
            yield json.loads(line.removeprefix("data: "))


def reason(reply: httpx.Response) -> str:
    """The reason in a `google.rpc.Status` as JSON."""
    assert reply.headers["content-type"] == "application/json"
    (info,) = [each for each in reply.json()["details"] if each["@type"].endswith("/google.rpc.ErrorInfo")]
    assert info["domain"] == "myriad"
    return str(info["reason"])


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/"),
        ("GET", "/v1/nonexistent"),
        ("GET", "/v1/sessions/a/b"),
        ("PUT", "/v1/sessions"),
        ("GET", "/v1/runs/s.1:cancel"),
        ("GET", "/v1/runs/s.1:nonexistent/x"),
        ("POST", "/myriad.orchestrator.v1.OrchestratorService/GetRun"),
        ("POST", "/myriad.memory.v1.MemoryService/PutAgent"),
        ("POST", "/grpc.health.v1.Health/Check"),
    ],
)
async def test_an_unknown_path_or_method_is_not_found(edge: Edge, method: str, path: str) -> None:
    reply = await edge.http.request(method, path, content=b"{}", headers=JSON)
    assert (reply.status_code, reason(reply)) == (404, "UNIMPLEMENTED")
    assert edge.stub.seen == []


@pytest.mark.parametrize(
    "query, named",
    [
        ("nonexistent=1", "nonexistent"),
        ("after_sequence=-1", "after_sequence"),
        ("after_sequence=4294967296", "after_sequence"),
        ("after_sequence=many", "after_sequence"),
    ],
)
async def test_a_wrong_query_parameter_is_named(edge: Edge, query: str, named: str) -> None:
    reply = await edge.http.get(f"/v1/runs/s.1:watch?{query}")
    assert (reply.status_code, reason(reply)) == (400, "INVALID_ARGUMENT")
    assert named in reply.json()["message"]
    assert edge.stub.seen == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"agent":',
        b'{"agent": "a"} x',
        b"[]",
        b"nonsense",
        b'{"agent": "\xff\xfe"}',
        b'{"agent": "\\ud800"}',
        b'{"agent": 5}',
        b'{"agent": {"name": "a"}}',
    ],
)
async def test_a_malformed_body_is_refused_with_what_is_wrong(edge: Edge, body: bytes) -> None:
    reply = await edge.http.post("/v1/sessions", content=body, headers=JSON)
    assert (reply.status_code, reason(reply)) == (400, "INVALID_ARGUMENT")
    assert len(reply.json()["message"]) > len("the request is malformed. ")
    assert edge.stub.seen == []


@pytest.mark.parametrize(
    "body", [{"input": "hi", "session_id": "other"}, {"input": "hi", "on_disconnect": "NONEXISTENT"}]
)
async def test_a_body_at_odds_with_the_path_or_with_an_enum_is_refused(edge: Edge, body: dict[str, str]) -> None:
    reply = await edge.http.post("/v1/sessions/s:run", json=body)
    assert (reply.status_code, reason(reply)) == (400, "INVALID_ARGUMENT")
    assert edge.stub.seen == []


async def test_a_body_over_the_limit_is_too_large(edge: Edge) -> None:
    reply = await edge.http.post("/v1/sessions", json={"agent": "a" * 256 * 1024})
    assert (reply.status_code, reason(reply)) == (413, "RESOURCE_EXHAUSTED")
    assert edge.stub.seen == []


async def test_a_body_under_the_limit_passes(edge: Edge) -> None:
    reply = await edge.http.post("/v1/sessions", json={"agent": "a" * 255 * 1024})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "headers, code",
    [
        ({"under_score": "x"}, 400),
        ({"x-large": "x" * 20_000}, 431),
        ({f"x-{number}": "x" for number in range(80)}, 431),
    ],
    ids=["underscore", "large", "many"],
)
async def test_hostile_headers_are_refused(edge: Edge, headers: dict[str, str], code: int) -> None:
    reply = await edge.http.get("/v1/runs/s.1", headers=headers)
    assert reply.status_code == code
    reason(reply)
    assert edge.stub.seen == []


async def test_an_escaped_slash_in_an_id_is_refused(edge: Edge) -> None:
    reply = await edge.http.get("/v1/runs/s%2F.1")
    assert (reply.status_code, reason(reply)) == (400, "INVALID_ARGUMENT")


async def test_an_error_of_the_service_has_its_http_status_and_its_reason(edge: Edge) -> None:
    reply = await edge.http.post("/v1/sessions", json={"agent": "absent"})
    assert (reply.status_code, reason(reply), reply.json()["code"]) == (404, "AGENT_NOT_FOUND", 5)


async def test_a_full_queue_is_too_many_requests_with_a_time_to_wait(edge: Edge) -> None:
    reply = await edge.http.post("/v1/runs", json={"session_id": "s", "input": "full"})
    assert (reply.status_code, reason(reply), reply.json()["code"]) == (429, "QUEUE_FULL", 8)
    (wait,) = [each for each in reply.json()["details"] if each["@type"].endswith("/google.rpc.RetryInfo")]
    assert wait["retry_delay"] == "1s"
    assert (await edge.http.post("/v1/runs", json={"session_id": "s", "input": "hi"})).status_code == 200  # the control


async def test_a_stream_refused_before_its_first_event_has_the_errors_status_and_body(edge: Edge) -> None:
    reply = await edge.http.post("/v1/sessions/s:run", json={"input": "busy"})
    assert (reply.status_code, reason(reply)) == (409, "SESSION_BUSY")


async def test_a_stream_that_fails_later_ends_without_a_last_event(edge: Edge) -> None:
    reply = await edge.http.post("/v1/sessions/s:run", json={"input": "late"})
    assert reply.status_code == 200
    assert [event["sequence"] async for event in events(reply)] == [1]


@pytest.mark.parametrize(
    "method", tuple(contract(SERVICES["orchestrator"].proto_service).methods), ids=lambda method: method.name
)
async def test_every_method_is_reached_by_its_http_annotation(edge: Edge, method: MethodDescriptor) -> None:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    path = re.sub(r"{\w+}", "s.1", getattr(rule, verb))
    edge.stub.proceed.set()
    content = b"{}" if rule.body else None
    await edge.http.request(verb.upper(), path, content=content, headers={"grpc-timeout": "300m"})
    assert [seen.method for seen in edge.stub.seen] == [method.name]


async def test_an_id_in_the_path_may_hold_a_dot(edge: Edge) -> None:
    reply = await edge.http.get("/v1/runs/abc.1")
    assert reply.json()["run"]["run_id"] == "abc.1"


async def test_fields_have_the_protos_names_and_zeros_are_printed(edge: Edge) -> None:
    reply = await edge.http.get("/v1/runs/abc.1")
    run = {"run_id": "abc.1", "state": "RUN_STATE_RUNNING", "last_sequence": 0}
    assert reply.json() == {"run": run | {"queue_class": "QUEUE_CLASS_UNSPECIFIED"}}


async def test_a_body_becomes_the_request(edge: Edge) -> None:
    reply = await edge.http.post("/v1/sessions", json={"agent": "aura", "request_id": "r1"})
    assert reply.json()["session"]["session_id"] == "opened"
    assert edge.stub.seen[-1].request == sessions_pb2.CreateSessionRequest(agent="aura", request_id="r1")


async def test_a_verb_after_the_id_chooses_the_method(edge: Edge) -> None:
    assert (await edge.http.post("/v1/runs/s.1:cancel", json={})).json() == {}
    assert edge.stub.seen[-1].method == "CancelRun"
    assert edge.stub.seen[-1].request == run_pb2.CancelRunRequest(run_id="s.1")


async def test_a_page_larger_than_envoys_buffers_arrives(edge: Edge) -> None:
    reply = await edge.http.get("/v1/sessions?page_size=50&page_token=large")
    assert (reply.status_code, len(reply.json()["sessions"])) == (200, 50)


async def test_server_sent_events_arrive_one_by_one(edge: Edge) -> None:
    async with edge.http.stream("POST", "/v1/sessions/s:run", json={"input": "hello"}) as reply, asyncio.timeout(5):
        assert reply.headers["content-type"] == "text/event-stream"
        stream = events(reply)
        assert (await anext(stream))["text_delta"] == {"text": "one"}
        edge.stub.proceed.set()
        assert [event["sequence"] async for event in stream] == [2]


async def test_a_cursor_is_a_query_parameter(edge: Edge) -> None:
    reply = await edge.http.get("/v1/runs/s.1:watch?after_sequence=4")
    assert [event["sequence"] async for event in events(reply)] == [5]


@pytest.mark.alone
async def test_hanging_up_cancels_the_handler_within_half_a_second(edge: Edge) -> None:
    async with edge.http.stream("POST", "/v1/sessions/s:run", json={"input": "hello"}) as reply:
        await anext(events(reply))
    async with asyncio.timeout(0.5):
        await edge.stub.cancelled.wait()


@pytest.mark.parametrize("path, longest", [("/v1/runs/s.1", 30), ("/v1/sessions", 30), ("/v1/runs/s.1:watch", 900)])
async def test_a_call_without_a_deadline_reaches_the_service_with_one(edge: Edge, path: str, longest: float) -> None:
    await edge.http.get(path)
    assert longest - 1 < (edge.stub.seen[-1].seconds_left or 0) <= longest


async def test_a_call_that_takes_too_long_is_told_so(edge: Edge) -> None:
    reply = await edge.http.delete("/v1/sessions/s", headers={"grpc-timeout": "300m"})
    assert (reply.status_code, reply.json()["code"]) == (504, 4)


async def test_a_reply_names_its_request_id(edge: Edge) -> None:
    reply = await edge.http.get("/v1/runs/s.1")
    assert reply.headers["x-request-id"] == edge.stub.seen[-1].metadata["x-request-id"]
