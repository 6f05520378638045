"""Paths, headers, sizes and frames that are meant to confuse."""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest

from myriad.orchestrator.v1 import sessions_pb2
from services.kit import errors, status
from tests.integration.edge.envoys import Edge
from tests.integration.edge.guarded import Guarded
from tests.integration.edge.raw import Http2, code_of, get, http1

RUN = "GET /v1/runs/s.1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
POST = "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "path, code, run",
    [
        ("/v1/runs/s.1", 200, "s.1"),
        ("/v1/runs/a%2Fs.1", 400, None),
        ("/v1/runs/a%2fs.1", 400, None),
        ("/v1/runs/a%5Cs.1", 400, None),
        ("/v1/runs/s%00.1", 400, None),
        ("/v1//runs///s.1", 200, "s.1"),
        ("/v1/sessions/../runs/s.1", 200, "s.1"),
        ("/v1/sessions/%2e%2e/runs/s.1", 200, "s.1"),
        ("/v1/./runs/s.1", 200, "s.1"),
        ("/../../v1/runs/s.1", 200, "s.1"),
        ("/v1/runs/..%2f..%2fadmin", 400, None),
        ("/v1/runs/s.1/", 200, "s.1"),
        ("/V1/runs/s.1", 404, None),
        ("/v1/runs/s.1#part", 400, None),
        ("v1/runs/s.1", 400, None),
        ("http://localhost/v1/runs/s.1", 200, "s.1"),
        ("http://elsewhere.test/v1/runs/s.1", 403, None),
        ("/v1/runs/s.1;x=1", 200, "s.1;x=1"),
        ("*", 400, None),
    ],
)
async def test_a_path_is_refused_or_means_one_thing(edge: Edge, path: str, code: int, run: str | None) -> None:
    assert code_of(await http1(edge.address, get(path))) == code
    assert [seen.request.run_id for seen in edge.stub.seen] == ([run] if run else [])  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/v1/runs/..%2fs.1", "//v1/runs/s.1", "/%2e%2e/v1/runs/s.1", "/v1/x/../runs/s.1"])
async def test_no_form_of_a_path_gets_around_the_token(guarded: Guarded, path: str) -> None:
    assert code_of(await http1(guarded.edge.address, get(path))) in {400, 401}
    assert guarded.edge.stub.seen == []


@pytest.mark.parametrize(
    "request_text, code",
    [
        (f"{RUN}x_forged: 1\r\n\r\n", 400),
        (f"{RUN}x-large: {'x' * 20_000}\r\n\r\n", 431),
        (f"{RUN}{''.join(f'x-{number}: 1{chr(13)}{chr(10)}' for number in range(80))}\r\n", 431),
        (f"{POST}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"{POST}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}x", 400),
        (f"{POST}Content-Length: -1\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n", 400),
        (f"{RUN}X-Null: a\0b\r\n\r\n", 400),
        (f"{RUN}Bad Name: a\r\n\r\n", 400),
        ("GET /v1/runs/s.1 HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        ("GET /v1/runs/s.1 HTTP/3.7\r\nHost: localhost\r\n\r\n", 426),
        ("NONSENSE\r\n\r\n", 400),
    ],
    ids=[
        "underscore", "large", "many", "length and chunks", "two lengths", "negative length", "bad chunk",
        "null", "space in name", "no host", "version", "nonsense",
    ],
)  # fmt: skip
async def test_a_malformed_request_is_refused(edge: Edge, request_text: str, code: int) -> None:
    assert code_of(await http1(edge.address, request_text.encode())) == code
    assert edge.stub.seen == []


@pytest.mark.alone
@pytest.mark.parametrize(
    "target, code",
    [("localhost", 400), ("localhost:443", 404), ("elsewhere.test:443", 403), ("/v1/runs/s.1", 400)],
)
async def test_a_tunnel_is_refused_at_once(edge: Edge, target: str, code: int) -> None:
    request = f"CONNECT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with asyncio.timeout(2):
        assert code_of(await http1(edge.address, request.encode())) == code
    assert edge.stub.seen == []


async def test_a_request_hidden_in_anothers_body_is_not_seen(edge: Edge) -> None:
    hidden = get("/v1/runs/hidden.1").decode()
    request = f"{POST}Content-Length: {len(hidden)}\r\nTransfer-Encoding: identity\r\n\r\n{hidden}"
    await http1(edge.address, request.encode(), all_of_it=True)
    assert "GetRun" not in [seen.method for seen in edge.stub.seen]


@pytest.mark.parametrize("size, code", [(200 * 1024, 200), (300 * 1024, 413), (5 * 1024 * 1024, 413)])
async def test_the_limit_of_a_body_is_the_same_in_json_and_in_grpc(edge: Edge, size: int, code: int) -> None:
    body = json.dumps({"agent": "a" * size})
    answer = await http1(edge.address, f"{POST}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert code_of(answer) == code
    request = sessions_pb2.CreateSessionRequest(agent="a" * size)
    if code == 200:
        await edge.orchestrator.CreateSession(request, timeout=5)
        assert len(edge.stub.seen) == 2
        return
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await edge.orchestrator.CreateSession(request, timeout=5)
    assert isinstance(status.from_rpc_error(raised.value, "edge"), errors.ResourceExhausted)
    assert edge.stub.seen == []


async def test_a_body_without_a_length_has_the_same_limit(edge: Edge) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"agent": "'
        for _ in range(40):
            yield b"a" * 8192
        yield b'"}'

    try:
        reply = await edge.http.post("/v1/sessions", content=chunks(), headers={"content-type": "application/json"})
    except httpx.WriteError:
        pass  # the connection was ended before all was sent
    else:
        assert reply.status_code == 413
    assert edge.stub.seen == []


async def test_json_split_anywhere_over_frames_is_the_same_json(edge: Edge) -> None:
    body = json.dumps({"agent": "été 🌍", "request_id": "r-1"}).encode()
    ways = [[body[:cut], body[cut:]] for cut in range(1, len(body))]
    ways.append([body[index : index + 1] for index in range(len(body))])
    ways.append([part for byte in (body[index : index + 1] for index in range(len(body))) for part in (byte, b"")])
    connection = await Http2.connect(edge.address)
    try:
        whole = await connection.post("/v1/sessions", [body])
        assert json.loads(whole)["session"]["agent"] == "été 🌍"
        for way in ways:
            assert await connection.post("/v1/sessions", way) == whole
    finally:
        connection.close()
    assert {seen.request.request_id for seen in edge.stub.seen} == {"r-1"}  # type: ignore[attr-defined]
