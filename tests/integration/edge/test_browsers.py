"""Pages in a browser: gRPC-Web in both forms, and CORS for the origins that may call."""

import asyncio
import base64

import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2

from myriad.orchestrator.v1 import run_event_pb2, run_pb2, sessions_pb2
from tests.integration.edge.envoys import Edge
from tests.integration.edge.grpc_web import CONTENT, TRAILERS, encoded, frames, trailers
from tests.integration.edge.guarded import ORIGIN, Guarded

SERVICE = "/myriad.orchestrator.v1.OrchestratorService"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-grpc-web"}

each_form = pytest.mark.parametrize("form", CONTENT)


def details_of(encoded_status: str) -> status_pb2.Status:
    """What `grpc-status-details-bin` says."""
    return status_pb2.Status.FromString(base64.b64decode(encoded_status + "=" * (-len(encoded_status) % 4)))


def reason_of(error: status_pb2.Status) -> str:
    """The reason of an error of ours."""
    info = error_details_pb2.ErrorInfo()
    assert error.details[0].Unpack(info)
    return str(info.reason)


@each_form
async def test_a_call_is_answered_by_a_message_and_trailers(edge: Edge, form: str) -> None:
    body = encoded(run_pb2.GetRunRequest(run_id="s.1"), form)
    async with edge.http.stream("POST", f"{SERVICE}/GetRun", content=body, headers=CONTENT[form]) as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, CONTENT[form]["content-type"])
        (_, message), (kind, end) = [frame async for frame in frames(reply, form)]
    assert run_pb2.GetRunResponse.FromString(message).run.run_id == "s.1"
    assert (kind, trailers(end)["grpc-status"]) == (TRAILERS, "0")


@each_form
async def test_a_stream_arrives_event_by_event(edge: Edge, form: str) -> None:
    body = encoded(run_pb2.RunTurnRequest(session_id="s", input="hello"), form)
    async with (
        asyncio.timeout(5),
        edge.http.stream("POST", f"{SERVICE}/RunTurn", content=body, headers=CONTENT[form]) as reply,
    ):
        arriving = frames(reply, form)
        _, first = await anext(arriving)
        edge.stub.proceed.set()
        _, second = await anext(arriving)
        kind, end = await anext(arriving)
    assert run_event_pb2.RunEvent.FromString(first).text_delta.text == "one"
    assert run_event_pb2.RunEvent.FromString(second).completed.answer == "one"
    assert (kind, trailers(end)["grpc-status"]) == (TRAILERS, "0")


@each_form
async def test_a_stream_that_fails_ends_in_trailers_that_say_why(edge: Edge, form: str) -> None:
    body = encoded(run_pb2.RunTurnRequest(session_id="s", input="late"), form)
    async with edge.http.stream("POST", f"{SERVICE}/RunTurn", content=body, headers=CONTENT[form]) as reply:
        (_, first), (_, end) = [frame async for frame in frames(reply, form)]
    assert run_event_pb2.RunEvent.FromString(first).sequence == 1
    found = trailers(end)
    assert found["grpc-status"] == "14"
    assert reason_of(details_of(found["grpc-status-details-bin"])) == "STORE_UNAVAILABLE"


@each_form
async def test_hanging_up_cancels_the_handler(edge: Edge, form: str) -> None:
    body = encoded(run_pb2.RunTurnRequest(session_id="s", input="hello"), form)
    async with edge.http.stream("POST", f"{SERVICE}/RunTurn", content=body, headers=CONTENT[form]) as reply:
        await anext(frames(reply, form))
    async with asyncio.timeout(5):
        await edge.stub.cancelled.wait()


@each_form
async def test_an_error_of_the_service_has_its_code_and_reason(edge: Edge, form: str) -> None:
    body = encoded(sessions_pb2.CreateSessionRequest(agent="absent"), form)
    reply = await edge.http.post(f"{SERVICE}/CreateSession", content=body, headers=CONTENT[form])
    assert reply.headers["grpc-status"] == "5"
    assert reason_of(details_of(reply.headers["grpc-status-details-bin"])) == "AGENT_NOT_FOUND"


@each_form
async def test_an_error_of_envoy_has_its_code_and_reason(guarded: Guarded, form: str) -> None:
    body = encoded(run_pb2.GetRunRequest(run_id="s.1"), form)
    headers = {**CONTENT[form], "origin": ORIGIN}
    reply = await guarded.edge.http.post(f"{SERVICE}/GetRun", content=body, headers=headers)
    assert (reply.status_code, reply.headers["grpc-status"]) == (200, "16")
    assert reason_of(details_of(reply.headers["grpc-status-details-bin"])) == "UNAUTHENTICATED"
    assert readable_by(reply, ORIGIN)


@each_form
async def test_a_message_over_the_limit_is_resource_exhausted(edge: Edge, form: str) -> None:
    body = encoded(sessions_pb2.CreateSessionRequest(agent="a" * 300_000), form)
    reply = await edge.http.post(f"{SERVICE}/CreateSession", content=body, headers=CONTENT[form])
    assert reply.headers["grpc-status"] == "8"
    assert edge.stub.seen == []


def readable_by(reply: httpx.Response, origin: str) -> bool:
    """Whether a browser lets a page of the origin read the reply, and all that a gRPC-Web client needs of it."""
    exposed = reply.headers.get("access-control-expose-headers", "").split(", ")
    needed = {"grpc-status", "grpc-message", "grpc-status-details-bin"}
    return reply.headers.get("access-control-allow-origin") == origin and needed <= set(exposed)


async def test_a_preflight_of_an_allowed_origin_needs_no_token(guarded: Guarded) -> None:
    for path in (f"{SERVICE}/RunTurn", "/v1/sessions"):
        reply = await guarded.edge.http.options(path, headers={"origin": ORIGIN, **PREFLIGHT})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert {"authorization", "x-grpc-web"} <= set(reply.headers["access-control-allow-headers"].split(", "))
        assert "POST" in reply.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in reply.headers
    assert guarded.edge.stub.seen == []


@pytest.mark.parametrize(
    "origin", ["https://elsewhere.test", f"{ORIGIN}.elsewhere.test", "http://console.test", "null"]
)
async def test_another_origin_is_refused_its_preflight_and_its_reply(guarded: Guarded, origin: str) -> None:
    preflight = await guarded.edge.http.options("/v1/sessions", headers={"origin": origin, **PREFLIGHT})
    assert preflight.status_code == 401
    reply = await guarded.edge.http.get("/v1/runs/s.1", headers={"origin": origin, **guarded.sent()})
    for each in (preflight, reply):
        assert not [name for name in each.headers if name.startswith("access-control-")]


async def test_a_page_of_an_allowed_origin_reads_replies_and_refusals(guarded: Guarded) -> None:
    good = await guarded.edge.http.get("/v1/runs/s.1", headers={"origin": ORIGIN, **guarded.sent()})
    refused = await guarded.edge.http.get("/v1/runs/s.1", headers={"origin": ORIGIN})
    unknown = await guarded.edge.http.get("/v1/unknown", headers={"origin": ORIGIN, **guarded.sent()})
    assert [reply.status_code for reply in (good, refused, unknown)] == [200, 401, 404]
    assert all(readable_by(reply, ORIGIN) for reply in (good, refused, unknown))


async def test_no_origin_may_call_unless_it_is_configured(edge: Edge) -> None:
    preflight = await edge.http.options("/v1/sessions", headers={"origin": ORIGIN, **PREFLIGHT})
    reply = await edge.http.get("/v1/runs/s.1", headers={"origin": ORIGIN})
    assert (preflight.status_code, reply.status_code) == (403, 403)
    assert not [name for name in (*preflight.headers, *reply.headers) if name.startswith("access-control-")]
