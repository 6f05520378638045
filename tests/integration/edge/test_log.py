"""What is seen of a request: a line of JSON with its trace's id, and no secret."""

import re
from pathlib import Path

import httpx
import pytest

from myriad.orchestrator.v1 import run_pb2
from tests.integration.edge.envoys import Backend, Edge, running_edge
from tests.integration.edge.guarded import MESH_TOKEN, Guarded

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def traceparent(reply_of: Edge) -> list[str]:
    """The parts of the header that the stub saw."""
    return str(reply_of.stub.seen[-1].metadata["traceparent"]).split("-")


async def test_of_a_callers_trace_the_id_goes_on_and_nothing_else(edge: Edge) -> None:
    await edge.http.get("/v1/runs/s.1", headers={"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=b"})
    _, trace, span, flags = traceparent(edge)
    assert (trace, flags) == (TRACE, "00")
    assert span != SPAN
    assert edge.stub.seen[-1].metadata["tracestate"] == ""


async def test_a_call_without_a_trace_begins_one(edge: Edge) -> None:
    for _ in range(2):
        await edge.http.get("/v1/runs/s.1")
    ids = {str(seen.metadata["traceparent"]) for seen in edge.stub.seen}
    assert len(ids) == 2
    assert all(re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", each) for each in ids)


@pytest.mark.parametrize(
    "header, seen",
    [
        ("nonsense", "nonsense00"),
        (f"00-{'0' * 32}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-00"),
        (f"01-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-[0-9a-f]{{16}}-00"),
    ],
    ids=["nonsense", "no trace", "a later version"],
)
async def test_a_trace_that_envoy_cannot_read_asks_for_no_recording_either(edge: Edge, header: str, seen: str) -> None:
    await edge.http.get("/v1/runs/s.1", headers={"traceparent": header})
    assert re.fullmatch(seen, str(edge.stub.seen[-1].metadata["traceparent"]))


async def recorded(edge: Edge, flags: str) -> int:
    """How many of 64 calls of one trace with these flags are passed on as recorded."""
    edge.stub.forget()
    for _ in range(64):
        await edge.http.get("/v1/runs/s.1", headers={"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "tracestate": "a=b"})
    return sum(str(seen.metadata["traceparent"]).endswith("-01") for seen in edge.stub.seen)


async def test_a_stranger_chooses_a_trace_and_not_whether_it_is_recorded(backend: Backend, tmp_path: Path) -> None:
    half = {"collector": "127.0.0.1:9", "trace_ratio": 0.5}
    async with running_edge(tmp_path, backend, half) as edge:
        assert all([0 < await recorded(edge, flags) < 64 for flags in ("00", "01")])


async def test_a_trusted_proxy_chooses_what_is_recorded_and_its_state_goes_on(backend: Backend, tmp_path: Path) -> None:
    async with running_edge(tmp_path, backend, {"trusted_hops": 1, "collector": "127.0.0.1:9"}) as edge:
        assert [await recorded(edge, flags) for flags in ("00", "01")] == [0, 64]
        assert {seen.metadata["tracestate"] for seen in edge.stub.seen} == {"a=b"}


async def test_a_line_tells_what_was_asked_by_whom_how_it_ended_and_in_which_trace(guarded: Guarded) -> None:
    reply = await guarded.edge.http.get("/v1/runs/s.1", headers=guarded.sent(tenant="seen", sub="ann"))
    line = await guarded.edge.logged(reply.headers["x-request-id"])
    expected = {
        "method": "GET", "path": "/v1/runs/s.1", "status": 200, "grpc_status": "OK", "tenant": "seen", "user": "ann",
        "client": "127.0.0.1", "protocol": "HTTP/1.1", "details": "via_upstream", "flags": "-",
        "request_id": reply.headers["x-request-id"], "trace_id": traceparent(guarded.edge)[1],
    }  # fmt: skip
    assert expected.items() <= line.items()
    assert line["duration_ms"] >= line["first_byte_ms"] >= 0


async def test_a_refused_call_has_a_line_that_says_why(guarded: Guarded) -> None:
    reply = await guarded.edge.http.get("/v1/runs/s.1", headers=guarded.sent(exp=1))
    line = await guarded.edge.logged(reply.headers["x-request-id"])
    assert (line["status"], line["details"]) == (401, "jwt_authn_access_denied{Jwt_is_expired}")
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"])


async def test_a_grpc_call_has_a_line_with_its_status(guarded: Guarded) -> None:
    call = guarded.edge.orchestrator.GetRun(
        run_pb2.GetRunRequest(run_id="s.1"), metadata=tuple(guarded.sent().items()), timeout=5
    )
    await call
    line = await guarded.edge.logged(str(guarded.edge.stub.seen[-1].metadata["x-request-id"]))
    path = "/myriad.orchestrator.v1.OrchestratorService/GetRun"
    assert (line["path"], line["grpc_status"], line["protocol"]) == (path, "OK", "HTTP/2")


async def test_no_secret_is_in_the_log(guarded: Guarded) -> None:
    token = guarded.issuer.token()
    replies: list[httpx.Response] = [
        await guarded.edge.http.get(f"/v1/runs/s.1?access_token={token}", headers={"cookie": "canary-cookie"}),
        await guarded.edge.http.get(f"/v1/runs/s.1?secret={token}", headers={"authorization": f"Bearer {token}"}),
        await guarded.edge.http.get("/v1/runs/s.1", headers={"authorization": f"Bearer {token}"}),
    ]
    for reply in replies:
        await guarded.edge.logged(reply.headers["x-request-id"])
    text = (guarded.edge.work / "access.log").read_text() + (guarded.edge.work / "envoy.log").read_text()
    assert "?" not in text
    for secret in (token, token.split(".")[1], MESH_TOKEN, "canary-cookie", "Bearer"):
        assert secret not in text
