"""What every HttpCaller does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from services.kit.errors import FailedPrecondition, ToolUnavailable
from services.toolexec.adapters.guard import SystemResolver
from services.toolexec.adapters.http import HttpcoreCaller
from services.toolexec.adapters.inmemory import InMemoryHttpCaller
from services.toolexec.domain import HttpRequest, HttpResponse, Url
from services.toolexec.ports import HttpCaller
from tests.support.http_server import answer, redirect, running_http_server, silent


@dataclass
class World:
    """A caller, and a web with: /json, /text, /gone (404), /moved (a redirect), /silent."""

    caller: HttpCaller
    host: str
    port: int

    def request(self, path: str, method: str = "GET", **changes) -> HttpRequest:
        url = Url("http", self.host, changes.pop("port", self.port), path)
        given = {"headers": {}, "body": None, "public_only": False, "max_bytes": 1_000} | changes
        return HttpRequest(method, url, **given)


@pytest_asyncio.fixture(scope="module", params=["inmemory", "httpcore"])
async def world(request) -> AsyncIterator[World]:
    if request.param == "inmemory":
        base = "http://127.0.0.1:7180"
        answers = {
            base + "/json": HttpResponse(200, "application/json", b'{"a":1}', truncated=False, location=""),
            base + "/text": HttpResponse(200, "text/plain", b"0123456789", truncated=False, location=""),
            base + "/gone": HttpResponse(404, "text/plain", b"gone", truncated=False, location=""),
            base + "/moved": HttpResponse(302, "", b"", truncated=False, location="/json?a=1"),
            base + "/silent": None,
        }
        yield World(InMemoryHttpCaller(answers, private=frozenset({"127.0.0.1"})), "127.0.0.1", 7180)
        return
    async with running_http_server() as server:
        server.answers |= {
            "/json": answer(200, b'{"a":1}', "Application/JSON; charset=utf-8"),
            "/text": answer(200, b"0123456789", "text/plain"),
            "/gone": answer(404, b"gone", "text/plain"),
            "/moved": redirect("/json?a=1"),
            "/silent": silent,
        }
        resolver = SystemResolver()
        caller = HttpcoreCaller(resolver)
        yield World(caller, server.host, server.port)
        await caller.close()
        resolver.close()


async def test_an_answer_comes_whole(world):
    found = await world.caller.call(world.request("/json?q=1"))
    assert found == HttpResponse(200, "application/json", b'{"a":1}', truncated=False, location="")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_every_method_is_answered(world, method):
    found = await world.caller.call(world.request("/json", method, body=b"{}", headers={"Content-Type": "x"}))
    assert found.status == 200


async def test_a_failure_status_is_an_answer(world):
    found = await world.caller.call(world.request("/gone"))
    assert (found.status, found.body) == (404, b"gone")


async def test_a_redirect_is_not_followed(world):
    found = await world.caller.call(world.request("/moved"))
    assert (found.status, found.location) == (302, "/json?a=1")


@pytest.mark.parametrize(("limit", "truncated"), [(1, True), (9, True), (10, False), (11, False)])
async def test_the_answer_is_cut_at_its_limit(world, limit, truncated):
    found = await world.caller.call(world.request("/text", max_bytes=limit))
    assert found.body == b"0123456789"[:limit]
    assert found.truncated is truncated


async def test_nobody_there_is_unavailable(world):
    with pytest.raises(ToolUnavailable):
        await world.caller.call(world.request("/json", port=9))


async def test_a_private_address_is_refused_where_only_public_ones_may_be_called(world):
    with pytest.raises(FailedPrecondition):
        await world.caller.call(world.request("/json", public_only=True))


async def test_a_call_without_an_answer_can_be_cancelled(world):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await world.caller.call(world.request("/silent"))
    assert (await world.caller.call(world.request("/json"))).status == 200


async def test_a_private_host_is_known_before_it_is_called(world):
    with pytest.raises(FailedPrecondition):
        await world.caller.check(world.request("/json").url)


async def test_a_host_that_nobody_knows_may_be_called_until_it_is_known(world):
    await world.caller.check(Url("https", "nobody.invalid", 443, "/"))
