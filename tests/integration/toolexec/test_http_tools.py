"""HTTP tools against servers that answer well, badly, or with malice."""

import asyncio
import gzip
import json
import ssl
import tracemalloc

import pytest
import pytest_asyncio

from services.kit.errors import ToolResponseTooLarge, ToolUnavailable
from services.toolexec.adapters.guard import SystemResolver
from services.toolexec.adapters.http import HttpcoreCaller
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.domain import HttpCall
from tests.support.http_server import (
    answer,
    bomb,
    broken_off,
    dripping,
    endless,
    garbage,
    redirect,
    running_http_server,
    silent,
)
from tests.support.ports import free_port

LIMIT = 65_536
TRUST = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Believes nobody; reading the system's authorities takes as long as all else here."""


def call(path: str, method: str = "GET", limit: int = LIMIT, *, key: bool = False) -> HttpCall:
    return HttpCall(method, "crm", path, {}, limit, key)


@pytest_asyncio.fixture
async def crm():
    async with running_http_server() as server:
        yield server


@pytest_asyncio.fixture
async def tools(crm):
    resolver = SystemResolver()
    caller = HttpcoreCaller(resolver, connections=16, trust=TRUST)
    yield HttpTools(
        caller, {"crm": crm.url(), "tls": crm.url().replace("http", "https"), "off": "http://127.0.0.1:9"}, frozenset()
    )
    await caller.close()
    resolver.close()
    await crm.until_idle()


async def test_an_order_is_looked_up(tools, crm):
    crm.answers["/orders/1001"] = answer(200, b'{"state": "sent"}')
    found = await tools.run("get", call("/orders/{order}"), {"order": "1001"}, "k")
    assert (found.result_json, found.is_error) == ('{"state":"sent"}', False)
    (request,) = crm.requests
    assert request.headers == {
        "host": f"127.0.0.1:{crm.port}",
        "accept": "application/json, text/*;q=0.5",
        "accept-encoding": "identity",
        "user-agent": "myriad",
    }


async def test_a_body_and_a_key_are_sent(tools, crm):
    crm.answers["/orders"] = answer(201, b"{}")
    await tools.run("post", call("/orders", "POST", key=True), {"name": "süß", "lines": [1]}, "the-key")
    (request,) = crm.requests
    assert request.method == "POST"
    assert json.loads(request.body) == {"name": "süß", "lines": [1]}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == "the-key"
    assert set(request.headers) == {
        "accept", "accept-encoding", "content-length", "content-type", "host", "idempotency-key", "user-agent",
    }  # fmt: skip


async def test_an_argument_cannot_make_a_second_request(tools, crm):
    hostile = "x HTTP/1.1\r\nHost: evil\r\n\r\nGET /admin"
    await tools.run("get", call("/orders/{order}"), {"order": hostile, "q": hostile, hostile: 1}, "k")
    (request,) = crm.requests
    assert request.target.startswith("/orders/x%20HTTP%2F1.1%0D%0AHost%3A%20evil")
    assert request.headers["host"] == f"127.0.0.1:{crm.port}"


async def test_a_404_is_an_answer_for_the_model(tools):
    found = await tools.run("get", call("/none"), {}, "k")
    assert found.is_error
    assert json.loads(found.result_json) == {"status": 404, "body": "not found"}


async def test_cookies_are_neither_kept_nor_sent(tools, crm):
    crm.answers["/a"] = answer(200, b"{}", set_cookie="session=of-another-tenant")
    for _ in range(2):
        await tools.run("get", call("/a"), {}, "k")
    assert all("cookie" not in request.headers for request in crm.requests)


async def test_the_environments_proxy_is_not_used(tools, crm, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    crm.answers["/a"] = answer(200, b"{}")
    assert not (await tools.run("get", call("/a"), {}, "k")).is_error


async def test_connections_are_used_again(tools, crm):
    crm.answers["/a"] = answer(200, b"{}")
    for _ in range(20):
        await tools.run("get", call("/a"), {}, "k")
    assert crm.connections == 1


async def test_an_endpoints_redirect_is_not_followed(tools, crm):
    crm.answers["/go"] = redirect("/secret")
    assert (await tools.run("get", call("/go"), {}, "k")).is_error
    assert len(crm.requests) == 1


async def test_an_endless_answer_is_cut_at_its_limit(tools, crm):
    crm.answers["/a"] = endless
    with pytest.raises(ToolResponseTooLarge):
        await tools.run("get", call("/a"), {}, "k")
    await crm.until_idle()


async def test_a_bomb_is_never_unpacked(tools, crm):
    crm.answers["/a"] = bomb(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(ToolResponseTooLarge):
            await tools.run("get", call("/a"), {}, "k")
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_a_packed_answer_is_unpacked(tools, crm):
    crm.answers["/a"] = answer(200, gzip.compress(b'{"a": 1}'), content_encoding="gzip")
    assert (await tools.run("get", call("/a"), {}, "k")).result_json == '{"a":1}'


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not packed at all", "gzip"),
        (gzip.compress(b'{"a": 1}' * 99, mtime=0)[:-9], "gzip"),
        (b"x", "br"),
        (b"x", "gzip, gzip"),
    ],
)
async def test_an_answer_packed_wrongly_is_unavailable(tools, crm, body, encoding):
    crm.answers["/a"] = answer(200, body, content_encoding=encoding)
    with pytest.raises(ToolUnavailable):
        await tools.run("get", call("/a"), {}, "k")


@pytest.mark.parametrize("handler", [broken_off, garbage])
async def test_an_answer_that_breaks_off_is_unavailable(tools, crm, handler):
    crm.answers["/a"] = handler
    with pytest.raises(ToolUnavailable) as caught:
        await tools.run("get", call("/a"), {}, "k")
    assert not any(word in caught.value.message.lower() for word in ("http", "h11", "error", "127.0.0.1"))
    crm.answers["/a"] = answer(200, b"{}")
    assert not (await tools.run("get", call("/a"), {}, "k")).is_error


async def test_a_server_that_speaks_no_tls_is_unavailable(tools):
    with pytest.raises(ToolUnavailable):
        await tools.run("get", HttpCall("GET", "tls", "/", {}, LIMIT, idempotency_key=False), {}, "k")


async def test_nobody_there_is_unavailable(tools):
    with pytest.raises(ToolUnavailable):
        await tools.run("get", HttpCall("GET", "off", "/", {}, LIMIT, idempotency_key=False), {}, "k")


@pytest.mark.parametrize("handler", [silent, dripping, endless])
async def test_cancelling_a_call_closes_its_connection(tools, crm, handler):
    crm.answers["/a"] = handler
    working = asyncio.create_task(tools.run("get", call("/a", limit=1_048_576 * 1_000), {}, "k"))
    await crm.until_asked()
    await asyncio.sleep(0.05)
    assert crm.open == 1
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await crm.until_idle()


async def test_cancelling_within_the_tls_handshake_closes_the_connection(tools, crm):
    reached, left = asyncio.Event(), asyncio.Event()

    async def never_answers(reader, writer):
        await reader.read(1)
        reached.set()
        while await reader.read(4096):
            pass
        left.set()
        writer.close()

    port = free_port()
    listening = await asyncio.start_server(never_answers, "127.0.0.1", port)
    resolver = SystemResolver()
    caller = HttpcoreCaller(resolver, connect_timeout=30, trust=TRUST)
    slow = HttpTools(caller, {"slow": f"https://127.0.0.1:{port}"}, frozenset())
    working = asyncio.create_task(
        slow.run("get", HttpCall("GET", "slow", "/", {}, LIMIT, idempotency_key=False), {}, "k")
    )
    await reached.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    async with asyncio.timeout(5):
        await left.wait()
    await caller.close()
    resolver.close()
    listening.close()


async def test_calls_cancelled_at_any_moment_leave_nothing_behind(tools, crm):
    """Twice as many as there are connections; httpcore 1.0.9 loses them all here, for ever."""
    crm.answers["/slow"] = silent
    crm.answers["/a"] = answer(200, b"{}")
    for moment in range(40):
        working = [asyncio.create_task(tools.run("get", call("/slow"), {}, "k")) for _ in range(32)]
        for _ in range(moment):
            await asyncio.sleep(0)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    await crm.until_idle()
    found = await asyncio.gather(*(tools.run("get", call("/a"), {}, "k") for _ in range(32)))
    assert not any(each.is_error for each in found)


@pytest.mark.parametrize(("body", "content_type"), [(b"\x89PNG\r\n", "image/png"), (b"{", "application/json")])
async def test_an_answer_of_the_wrong_kind_is_an_error_for_the_model(tools, crm, body, content_type):
    crm.answers["/a"] = answer(200, body, content_type)
    assert (await tools.run("get", call("/a"), {}, "k")).is_error


async def test_bad_utf8_is_replaced(tools, crm):
    crm.answers["/a"] = answer(200, b'{"a": "\xff"}')
    assert (await tools.run("get", call("/a"), {}, "k")).result_json == '{"a":"\ufffd"}'
