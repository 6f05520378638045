"""Bad JSON, bad paths, bad headers and bad sizes through Envoy: the exact answer, and no service behind is asked."""

import asyncio
import json
import uuid

import grpc
import pytest

from myriad.common.v1 import tool_pb2
from myriad.orchestrator.v1 import sessions_pb2
from services.kit.errors import by_reason
from tests.support.client import face, put_agent
from tests.support.hostile import told
from tests.support.hostile_http import in_frames, raw
from tests.support.leaks import leaks
from tests.support.metrics import metrics_at

LIMIT = 262_144
"""Bytes of a request that Envoy takes."""
HOST = b"host: localhost\r\nconnection: close\r\n"
GET = b"GET /v1/sessions HTTP/1.1\r\n"
POST = b"POST /v1/sessions HTTP/1.1\r\n" + HOST
BEHIND = ("memory", "nlu", "retrieval", "toolexec")


@pytest.fixture(scope="module")
async def user(stack):
    await put_agent(stack, "player")
    async with face(stack) as made:
        yield made


@pytest.fixture(scope="module")
async def session(user):
    return await user.session("player")


@pytest.fixture
async def untouched(stack):
    """Fails the test when a service behind the orchestrator was called in it."""
    before = await calls_behind(stack)
    yield
    assert await calls_behind(stack) == before


async def calls_behind(stack) -> float:
    """Calls that the services behind the orchestrator have answered, right or wrong."""
    shown = await asyncio.gather(*(metrics_at(stack.address(f"{name}_metrics")) for name in BEHIND))
    return sum(each.sum("myriad_rpc_seconds_count") for each in shown)


def check_error(body: dict, reason: str, named: str) -> None:
    """The error has our shape, and names what is wrong: in its field violations, or what Envoy found in its text."""
    infos = [detail for detail in body["details"] if detail["@type"].endswith("ErrorInfo")]
    assert [(info["reason"], info["domain"]) for info in infos] == [(reason, "myriad")]
    assert reason in by_reason()
    assert body["code"] and body["message"]
    fields = [each["field"] for detail in body["details"] for each in detail.get("field_violations", ())]
    assert named in fields or (not fields and named in body["message"]), body
    assert not leaks(told(body)), body


SESSIONS, RUN = "/v1/sessions", "/v1/sessions/{session}:run"
WATCH = "/v1/runs/{session}.1:watch"
LONE = b'{"input": "\\ud800"}'
REFUSED = [
    # 40: no such thing, or no such type
    ("GET", "/v1/sessions?nonsense=1", b"", "nonsense"),
    ("GET", "/v1/sessions?page_size.x=1", b"", "page_size"),
    ("GET", "/v1/sessions?page_size=many", b"", "page_size"),
    ("POST", RUN, b'{"input": "hi", "session_id": "other"}', "session_id"),
    ("POST", SESSIONS, b'{"agent": 5}', "agent"),
    ("POST", SESSIONS, b'{"agent": ["player"]}', "not repeating"),
    ("POST", SESSIONS, b'{"agent": {"name": "player"}}', "agent"),
    ("POST", SESSIONS, b'{"agent": true}', "agent"),
    ("POST", RUN, b'{"input": "hi", "on_disconnect": "SOMETIMES"}', "on_disconnect"),
    ("POST", RUN, b'{"input": "hi", "on_disconnect": 7}', "on_disconnect"),
    ("POST", RUN, b'{"input": "hi", "on_disconnect": -1}', "on_disconnect"),
    ("POST", RUN, b'{"input": "hi", "on_disconnect": 1.5}', "on_disconnect"),
    # 40: no JSON, or not an object
    ("POST", SESSIONS, b"{", "malformed"),
    ("POST", SESSIONS, b'{"agent": "player"', "malformed"),
    ("POST", SESSIONS, b'{"agent": "player"} x', "malformed"),
    ("POST", SESSIONS, b'{"agent": "player"}{"agent": "player"}', "malformed"),
    ("POST", SESSIONS, b'{"agent": "player" /* why */}', "malformed"),
    ("POST", SESSIONS, b"[]", "malformed"),
    ("POST", SESSIONS, b'[{"agent": "player"}]', "malformed"),
    ("POST", SESSIONS, b'"player"', "malformed"),
    ("POST", SESSIONS, b"7", "malformed"),
    ("POST", SESSIONS, b"NaN", "malformed"),
    ("POST", SESSIONS, b"\x00", "malformed"),
    ("POST", SESSIONS, b"\xef\xbb\xbf{}", "malformed"),
    ("POST", SESSIONS, '{"agent": "player"}'.encode("utf-16"), "malformed"),
    ("POST", SESSIONS, b'{"agent": "\xff\xfe"}', "malformed"),
    ("POST", SESSIONS, b'{"agent": "\xed\xa0\x80"}', "malformed"),
    ("POST", SESSIONS, b'{"agent": "\xc0\xaf"}', "malformed"),
    ("POST", RUN, LONE, "malformed"),
    # 41: what Envoy passes on, the service refuses
    ("POST", SESSIONS, b"", "agent"),
    ("POST", SESSIONS, b"{}", "agent"),
    ("POST", SESSIONS, b'{"agent": null}', "agent"),
    ("POST", SESSIONS, b'{"agent": ""}', "agent"),
    ("POST", SESSIONS, b'{"agent": "play\\u0000er"}', "agent"),
    ("POST", SESSIONS, b'{"agent": "../player"}', "agent"),
    ("POST", SESSIONS, b'{"agent": "' + b"a" * 64 + b'"}', "agent"),
    ("POST", SESSIONS, b'{"agent": "player", "request_id": "x y"}', "request_id"),
    ("POST", SESSIONS, b'{"agent": "player", "agent": "No Such!"}', "agent"),
    ("POST", SESSIONS, b'{"agent": "player", "request_id": "a:{b}*\\n"}', "request_id"),
    ("POST", RUN, b"", "input"),
    ("POST", RUN, b'{"input": "hi", "request_id": "' + b"x" * 65 + b'"}', "request_id"),
    ("POST", RUN, b'{"input": "nul\\u0000"}', "input"),
    ("POST", RUN, b'{"input": "\\u001b[2J"}', "input"),
    ("POST", RUN, b'{"input": " \\n\\t "}', "input"),
    ("POST", RUN, b'{"input": "' + b"x" * 8_001 + b'"}', "input"),
    ("POST", RUN, b'{"input": "' + b"word " * 50_000 + b'"}', "input"),
    ("GET", "/v1/sessions/a%20b", b"", "session_id"),
    ("GET", "/v1/sessions/%C3%A9", b"", "session_id"),
    ("GET", "/v1/sessions/" + "x" * 65, b"", "session_id"),
    ("GET", "/v1/runs/{session}", b"", "run_id"),
    ("GET", "/v1/runs/{session}.0", b"", "run_id"),
    ("GET", "/v1/runs/{session}.01", b"", "run_id"),
    ("GET", "/v1/runs/{session}.99999999999", b"", "run_id"),
    ("GET", "/v1/sessions?page_token=%7B%7D", b"", "page_token"),
    ("GET", "/v1/runs/{session}.1%0A", b"", "run_id"),
    ("POST", "/v1/runs/x:cancel", b"{}", "run_id"),
    ("GET", "/v1/agents/No", b"", "agent"),
    # 51: numbers out of range
    *(("GET", f"/v1/sessions?page_size={number}", b"", "page_size") for number in ("NaN", "Infinity", "-Infinity")),
    *(("GET", f"/v1/sessions?page_size={number}", b"", "page_size") for number in ("-1", "101", "1000000000", "1.5")),
    *(("GET", f"/v1/sessions?page_size={number}", b"", "page_size") for number in (2**31, 2**63, 2**64, 10**400)),
    *(("GET", f"{WATCH}?after_sequence={number}", b"", "after_sequence") for number in ("-1", "NaN", "1e400", 2**32)),
]


def name_of(value: object) -> str:
    return repr(value)[:70] if isinstance(value, bytes | str) else ""


@pytest.mark.parametrize(("method", "path", "body", "named"), REFUSED, ids=name_of)
async def test_what_is_wrong_is_refused_by_name_before_any_service_is_asked(
    user, session, untouched, method, path, body, named
):
    reply = await user.http.request(method, path.format(session=session), content=body)
    assert reply.status_code == 400, reply.text
    check_error(reply.json(), "INVALID_ARGUMENT", named)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v2/sessions"),
        ("PUT", "/v1/sessions"),
        ("GET", "/v1/sessions/a/b"),
        ("GET", "/v1/sessions/a:run"),
        ("POST", "/v1/runs/a.1:nonsense"),
        ("GET", "/V1/SESSIONS"),
        ("GET", "/v1/sessions;x=1"),
        ("POST", "/myriad.memory.v1.MemoryService/PutAgent"),
        ("POST", "/inference.GRPCInferenceService/ModelInfer"),
        ("GET", "/stats"),
        ("POST", "/quitquitquit"),
    ],
)
async def test_what_has_no_route_is_not_found(user, untouched, method, path):
    reply = await user.http.request(method, path, content=b"{}" if method == "POST" else b"")
    assert reply.status_code == 404
    check_error(reply.json(), "UNIMPLEMENTED", "no such method")


@pytest.mark.parametrize(
    "body",
    [
        b'{"agent": "player", "nonsense": {"deep": [1, null, {}]}}',
        b'{"agent": "player", "__proto__": {}, "constructor": 1}',
        b'{"agent": "No Such!", "agent": "player"}',
        b'{"agent": "player", "nonsense": 1, "nonsense": 2}',
        b' \r\n\t{"agent":\n"player"} ',
        b'{"\\u0061gent": "player"}',
        b'{"agent": "player", "request_id": null}',
        b'{"agent": "player",}',
        b"{'agent': 'player'}",
    ],
    ids=name_of,
)
async def test_unknown_fields_are_ignored_the_last_of_two_counts_and_json5_is_read(user, body):
    reply = await user.http.post("/v1/sessions", content=body)
    assert (reply.status_code, reply.json()["session"]["agent"]) == (200, "player"), reply.text


@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_json_however_deep_is_ignored_or_refused(user, opening):
    found = {}
    for depth in (0, 1, 10, 31, 32, 33, 34, 50, 98, 99, 100, 101, 150, 500, 1_000, 5_000):
        closing = ("]" if opening == "[" else "}") * depth
        body = f'{{"agent": "player", "x": {opening * depth}1{closing}}}'
        reply = await user.http.post("/v1/sessions", content=body.encode())
        found[depth] = reply.status_code
        if reply.status_code != 200:
            check_error(reply.json(), "INVALID_ARGUMENT", "malformed")
    assert set(found.values()) <= {200, 400}, found
    assert found[0] == found[10] == 200
    assert found[5_000] == 400


@pytest.mark.parametrize(
    ("size", "status", "reason", "named"),
    [
        (200 * 1024, 400, "INVALID_ARGUMENT", "agent"),
        (LIMIT, 400, "INVALID_ARGUMENT", "agent"),
        (LIMIT + 1, 413, "RESOURCE_EXHAUSTED", "262144 bytes"),
        (300 * 1024, 413, "RESOURCE_EXHAUSTED", "262144 bytes"),
    ],
)
async def test_a_body_is_taken_up_to_its_limit_to_the_byte(user, untouched, size, status, reason, named):
    frame = b'{"agent": ""}'
    body = frame[:-2] + b"a" * (size - len(frame)) + frame[-2:]
    reply = await user.http.post("/v1/sessions", content=body)
    assert reply.status_code == status, reply.text
    check_error(reply.json(), reason, named)


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_has_come(stack, untouched):
    sent = b"content-length: 5242880\r\n\r\n" + b" " * (LIMIT + 1)
    reply = await raw(stack.address("envoy"), POST + sent)
    assert reply.status == 413
    check_error(reply.error(), "RESOURCE_EXHAUSTED", "262144 bytes")


async def test_a_query_that_differs_from_the_path_wins(user, session):
    """Envoy binds the path first. Whose session it is, is checked of the id that counts."""
    reply = await user.http.get(f"/v1/sessions/{session}?session_id=absent")
    assert reply.status_code == 404
    check_error(reply.json(), "SESSION_NOT_FOUND", "no such session")


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (200 * 1024, grpc.StatusCode.INVALID_ARGUMENT),
        (LIMIT, grpc.StatusCode.INVALID_ARGUMENT),
        (LIMIT + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (5 * 1024 * 1024, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_a_grpc_request_is_taken_up_to_its_limit_to_the_byte(user, untouched, size, code):
    """The limit counts what is sent: the message, the four bytes of its field and the five of gRPC's frame."""
    request = sessions_pb2.CreateSessionRequest(agent="a" * (size - 9))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await user.stub.CreateSession(request, metadata=user.metadata, timeout=10)
    assert raised.value.code() is code


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/sessions%2Fabsent", 400),
        ("/v1/runs/a%2f.1", 400),
        ("/v1%5Csessions", 400),
        ("/v1\\sessions", 200),
        ("/v1/sessions/a%00b", 400),
        ("/v1/sessions/%2e%2e", 404),
        ("/v1/sessions/..", 404),
        ("/v1/nonsense/../sessions", 200),
        ("/v1/./sessions", 200),
        ("/v1//sessions", 200),
        ("//v1/sessions", 200),
        ("/v1/sessions/../../../etc/passwd", 404),
        ("/v1/sessions/%2e%2e/agents", 200),
        ("/v1/sessions/%zz", 400),
        ("/v1/sessions/%", 400),
        ("/v1/sessions#fragment", 400),
        ("v1/sessions", 400),
        ("*", 400),
        ("http://localhost/v1/sessions", 200),
        ("http://other/v1/sessions", 403),
        ("/v1/sessions/a b", 400),
        ("/v1/sessions/\x7f", 400),
        ("/v1/sessions/" + "a" * 17_000, 431),
    ],
    ids=name_of,
)
async def test_a_raw_path_is_normalised_or_refused_and_never_another_route(stack, path, status):
    reply = await raw(stack.address("envoy"), b"GET " + path.encode("latin-1") + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert reply.status == status, reply.body
    if status == 200:
        assert json.loads(reply.body).keys() <= {"sessions", "next_page_token", "agents"}
    elif reply.body.startswith(b"{"):
        reasons = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED", 431: "RESOURCE_EXHAUSTED"}
        named = "session_id" if path in {"/v1/sessions/%", "/v1/sessions/%zz"} else ""  # a percent sign of its own
        check_error(reply.error(), reasons[status], named)


SMUGGLED = b"0\r\n\r\nGET /v1/agents HTTP/1.1\r\nhost: localhost\r\n\r\n"
HEADERS = {
    "underscore": (GET + HOST + b"x_y: 1\r\n\r\n", 400),
    "underscored identity": (GET + HOST + b"x_myriad_user: root\r\n\r\n", 400),
    "20 KiB": (GET + HOST + b"x: " + b"y" * 20_480 + b"\r\n\r\n", 431),
    "80 headers": (GET + HOST + b"".join(b"x-%d: 1\r\n" % n for n in range(80)) + b"\r\n", 431),
    "length and chunks": (POST + b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n" + SMUGGLED, 400),
    "two lengths": (POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}x", 400),
    "lengths in one": (POST + b"content-length: 2, 3\r\n\r\n{}x", 400),
    "negative length": (POST + b"content-length: -1\r\n\r\n", 400),
    "length of hexadecimal": (POST + b"content-length: 0x2\r\n\r\n{}", 400),
    "endless length": (POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "chunk of no size": (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    "chunk of any size": (POST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", 400),
    "unknown encoding": (POST + b"transfer-encoding: chunked, gzip\r\n\r\n", 501),
    "nul": (GET + HOST + b"x: \x00\r\n\r\n", 400),
    "no colon": (GET + HOST + b"nonsense\r\n\r\n", 400),
    "space before the colon": (GET + HOST + b"x : 1\r\n\r\n", 400),
    "no name": (GET + HOST + b": 1\r\n\r\n", 400),
    "no host": (GET + b"\r\n", 400),
    "two hosts": (GET + HOST + b"host: other\r\n\r\n", 403),
    "a name that leads here": (GET + b"host: elsewhere.test\r\n\r\n", 403),
    "unknown version": (b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", 426),
    "no version": (b"GET /\r\n\r\n", 426),
    "unknown method": (b"NONSENSE /v1/sessions HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "not http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "redis": (b"*1\r\n$4\r\nPING\r\n", 400),
}


@pytest.mark.parametrize(("request_bytes", "status"), HEADERS.values(), ids=HEADERS)
async def test_abused_headers_are_refused(stack, untouched, request_bytes, status):
    reply = await raw(stack.address("envoy"), request_bytes)
    assert reply.status == status, reply
    if reply.body.startswith(b"{"):
        check_error(reply.error(), reply.error()["details"][0]["reason"], "")


@pytest.mark.parametrize("header", [b"x: 1\r\n folded\r\n", b"x: a\rb\r\n"], ids=name_of)
async def test_headers_that_envoy_mends_change_nothing(stack, header):
    reply = await raw(stack.address("envoy"), GET + HOST + header + b"\r\n")
    assert (reply.status, json.loads(reply.body).keys()) == (200, {"sessions", "next_page_token"})


async def answered_otherwise(user, stack, body, others) -> list[int]:
    """Which of these, sent in DATA frames as they are cut, are not answered as the whole body is."""
    headers = {":path": "/v1/sessions", "content-type": "application/json", **dict(user.metadata)}
    first, *replies = await in_frames(stack.address("envoy"), headers, [[body], *others])
    assert first.status == 200, first.body
    return [number for number, reply in enumerate(replies) if (reply.status, reply.body) != (200, first.body)]


def new_session() -> bytes:
    """A request of which no byte may be missing, and which is answered the same whenever it is repeated."""
    return json.dumps({"agent": "player", "request_id": uuid.uuid4().hex}, separators=(",", ":")).encode()


async def test_a_body_split_at_any_byte_is_the_same_body(user, stack):
    body = new_session()
    halves = [[body[:at], body[at:]] for at in range(1, len(body))]
    by_byte = [[body[at : at + 1] for at in range(len(body))]]
    with_empty = [[b"", body[:10], b"", body[10:]]]
    assert await answered_otherwise(user, stack, body, [*halves, *by_byte, *with_empty]) == []


@pytest.mark.parametrize("loss", [0, 1], ids=["frames-swapped", "a-byte-lost"])
async def test_control_what_goes_wrong_at_any_cut_is_seen(user, stack, loss):
    body = new_session()
    cuts = range(1, len(body))
    wrong = [[body[:at], body[at + 1 :]] if loss else [body[at:], body[:at]] for at in cuts]
    assert len(await answered_otherwise(user, stack, body, wrong)) == len(cuts)


async def test_a_bad_body_split_at_any_byte_is_refused_as_if_whole(user, stack, untouched):
    body = '{"agent": "n\u00f6 such"}'.encode()
    headers = {":path": "/v1/sessions", "content-type": "application/json", **dict(user.metadata)}
    halves = [[body[:at], body[at:]] for at in range(1, len(body))]
    for reply in await in_frames(stack.address("envoy"), headers, halves):
        assert reply.status == 400
        check_error(reply.error(), "INVALID_ARGUMENT", "agent")


async def test_the_count_of_calls_behind_counts(user, stack):
    """A control: a good request is seen there."""
    before = await calls_behind(stack)
    await user.session("player")
    assert await calls_behind(stack) > before


async def test_an_agent_whose_schema_is_as_deep_as_may_be_is_printed_or_refused(user, stack):
    schema: dict = {"type": "object"}
    for _ in range(14):
        schema = {"type": "object", "properties": {"a": schema}}
    tool = tool_pb2.Tool(name="t", description="d", side_effect=tool_pb2.SIDE_EFFECT_READ)
    tool.builtin.function = "calculator"
    tool.parameters.update(schema)
    await put_agent(stack, "deep", tools=[tool])
    reply = await user.http.get("/v1/agents/deep")
    assert reply.status_code == 200, reply.text
    assert reply.json()["agent"]["tools"][0]["parameters"] == schema
