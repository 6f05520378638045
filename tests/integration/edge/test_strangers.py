"""Where no token is asked for, a page in this machine's browser reaches no service, whatever it does."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.edge.envoys import Backend, Edge, manager, running_edge
from tests.integration.edge.guarded import ORIGIN, Guarded
from tests.integration.edge.raw import code_of, http1

NAME = "myriad.test"
BODY = b'{"agent": "a"}'


def request(host: str, *lines: str) -> bytes:
    """What a form sends, which needs no preflight."""
    head = ["POST /v1/sessions HTTP/1.1", f"Host: {host}", "Connection: close", "Content-Type: text/plain"]
    return "\r\n".join([*head, f"Content-Length: {len(BODY)}", *lines, "", ""]).encode() + BODY


def take_the_guards_away(document: Any) -> None:
    """Both are filters of one kind."""
    filters = manager(document)["http_filters"]
    manager(document)["http_filters"] = [each for each in filters if each["name"] != "envoy.filters.http.rbac"]


@pytest_asyncio.fixture(scope="module")
async def named(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Envoy in the open that is known by one more name, and that pages of one origin may call."""
    fields = {"hosts": [NAME], "cors_origins": [ORIGIN]}
    async with running_edge(tmp_path_factory.mktemp("named"), backend, fields) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def unguarded(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """Envoy in the open without its guards."""
    async with running_edge(tmp_path_factory.mktemp("bare"), backend, {}, change=take_the_guards_away) as running:
        yield running


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "LocalHost", "127.0.0.1:1", "[::1]", "[::1]:8080"])
async def test_this_machine_is_known_by_its_own_names(edge: Edge, host: str) -> None:
    assert code_of(await http1(edge.address, request(host))) == 200
    assert [seen.method for seen in edge.stub.seen] == ["CreateSession"]


@pytest.mark.parametrize(
    "host",
    [
        "elsewhere.test", "elsewhere.test:8080", "localhost.elsewhere.test", "127.0.0.1.elsewhere.test", "localhost.",
        "127.0.0.2", "0.0.0.0", "user@localhost", NAME,
    ],
)  # fmt: skip
async def test_a_name_that_was_made_to_lead_here_reaches_no_service(edge: Edge, host: str) -> None:
    answer = await http1(edge.address, request(host))
    assert code_of(answer) in {400, 403}
    assert b"PERMISSION_DENIED" in answer or b"INVALID_ARGUMENT" in answer
    assert edge.stub.seen == []


@pytest.mark.parametrize(
    "origin",
    ["https://elsewhere.test", "null", ORIGIN, "http://localhost:1", "http://localhost", "http://127.0.0.1.x.test"],
)
async def test_a_page_of_another_origin_reaches_no_service(edge: Edge, origin: str) -> None:
    answer = await http1(edge.address, request("localhost", f"Origin: {origin}"))
    assert code_of(answer) == 403
    assert b"PERMISSION_DENIED" in answer
    assert edge.stub.seen == []


async def test_two_hosts_are_none(edge: Edge) -> None:
    for hosts in ("localhost\r\nHost: elsewhere.test", "elsewhere.test\r\nHost: localhost"):
        assert code_of(await http1(edge.address, request(hosts))) == 403
    assert edge.stub.seen == []


async def test_two_origins_are_none(named: Edge) -> None:
    named.stub.forget()
    answer = await http1(named.address, request("localhost", f"Origin: {ORIGIN}", "Origin: https://elsewhere.test"))
    assert code_of(answer) == 403
    assert named.stub.seen == []


async def test_the_names_and_origins_of_an_installation_are_known(named: Edge) -> None:
    own = f"http://{NAME}:{named.address.rpartition(':')[2]}"
    for lines in ((), (f"Origin: {ORIGIN}",), (f"Origin: {own}",)):
        assert code_of(await http1(named.address, request(f"{NAME}:8080", *lines))) == 200
    preflight = {"origin": ORIGIN, "access-control-request-method": "POST"}
    reply = await named.http.options("/v1/sessions", headers=preflight)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)


async def test_without_the_guards_a_page_acts_as_whoever_it_likes(unguarded: Edge) -> None:
    unguarded.stub.forget()
    for each in (request("elsewhere.test"), request("localhost", "Origin: https://elsewhere.test")):
        assert code_of(await http1(unguarded.address, each)) == 200
    assert len(unguarded.stub.seen) == 2


async def test_where_tokens_are_asked_for_the_name_does_not_matter(guarded: Guarded) -> None:
    reply = await guarded.edge.http.get("/v1/runs/s.1", headers={"host": "any.test", **guarded.sent()})
    assert reply.status_code == 200
