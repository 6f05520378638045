"""Callbacks against servers that take them, refuse them, are slow, or lead elsewhere."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.kit.callbacks import Callback
from services.kit.errors import InvalidArgument
from services.kit.keys import SessionKeys
from services.kit.queue import CALLBACK_QUEUE
from services.kit.queue_redis import RedisQueue
from tests.support.http_server import HttpServer, answer, broken_off, redirect, running_http_server, silent
from tests.support.toolexec_service import Stack, a_stack
from tests.support.valkey import running_valkey
from tests.support.webhooks import verified

SECRET = "a secret of the operator that is long enough"


@pytest_asyncio.fixture(scope="module")
async def valkey(tmp_path_factory) -> AsyncIterator[str]:
    async with running_valkey(tmp_path_factory.mktemp("callbacks")) as url:
        yield url


@pytest_asyncio.fixture
async def hooks() -> AsyncIterator[HttpServer]:
    async with running_http_server() as server:
        yield server


@pytest_asyncio.fixture
async def stack(valkey, hooks) -> AsyncIterator[Stack]:
    settings = {"CALLBACK_SECRETS": SECRET, "CALLBACK_EXCEPTIONS": hooks.url()}
    async with a_stack(valkey, [], "http://127.0.0.1:9", **settings) as made:
        yield made


async def sent(stack: Stack, url: str, run: int = 1) -> list[bytes | None]:
    """State, attempts and reason of a callback, once it has ended."""
    queue = RedisQueue(stack.redis, "orchestrator", 5)
    name = SessionKeys(stack.ann, "s1").callback(run)
    await queue.put(CALLBACK_QUEUE, [Callback(f"s1.{run}", url, "failed", 1).item(stack.ann)])
    async with stack.here(), asyncio.timeout(10):
        while await stack.redis.execute("HGET", name, "state") not in {b"delivered", b"failed"}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await queue.close()
    return await stack.redis.execute("HMGET", name, "state", "attempts", "reason")


async def test_a_receiver_that_knows_the_derived_key_believes_the_message(stack, hooks):
    hooks.answers["/run"] = answer(204, b"")
    assert await sent(stack, hooks.url("/run?mine=1")) == [b"delivered", b"1", b""]
    (request,) = hooks.requests
    info = f"myriad-callback {stack.ann.tenant}".encode()
    key = HKDF(hashes.SHA256(), 32, None, info).derive(SECRET.encode())
    verified(request.headers, request.body, "whsec_" + base64.b64encode(key).decode(), now=time.time())
    assert (request.method, request.target) == ("POST", "/run?mine=1")
    assert json.loads(request.body) == {
        "type": "run.failed",
        "timestamp": "1970-01-01T00:00:00.001Z",
        "data": {"run_id": "s1.1", "session_id": "s1", "state": "failed"},
    }
    assert not any("x-myriad" in name or name in {"authorization", "traceparent"} for name in request.headers)


async def test_a_receiver_that_fails_first_is_told_again(stack, hooks):
    async def second_time(request, writer):
        await answer(503 if len(hooks.requests) == 1 else 200, b"")(request, writer)

    hooks.answers["/run"] = second_time
    assert await sent(stack, hooks.url("/run")) == [b"delivered", b"2", b""]
    assert len({request.headers["webhook-id"] for request in hooks.requests}) == 1


@pytest.mark.parametrize(
    ("behaviour", "attempts", "reason"),
    [
        (answer(410, b""), 1, b"410"),
        (answer(500, b""), 3, b"500"),
        (silent, 3, b"TOOL_TIMEOUT"),
        (broken_off, 3, b"TOOL_UNAVAILABLE"),
    ],
    ids=["gone", "failing", "silent", "broken off"],
)
async def test_what_a_receiver_does_decides(stack, hooks, behaviour, attempts, reason):
    hooks.answers["/run"] = behaviour
    assert await sent(stack, hooks.url("/run")) == [b"failed", str(attempts).encode(), reason]
    assert len(hooks.requests) == attempts


async def test_a_redirect_leads_nowhere(stack, hooks):
    hooks.answers |= {"/run": redirect(hooks.url("/inside")), "/inside": answer(200, b"")}
    assert await sent(stack, hooks.url("/run")) == [b"failed", b"3", b"302"]
    assert {request.target for request in hooks.requests} == {"/run"}


async def test_a_private_address_is_never_connected_to(stack, hooks):
    async with running_http_server() as inside:
        for run, host in enumerate(("127.0.0.1", "localhost", "[::1]", "0x7f000001", "[::ffff:127.0.0.1]"), 1):
            url = f"https://{host}:443/"
            assert await sent(stack, url, run) == [b"failed", b"1", b"ADDRESS_REFUSED"]
        assert await sent(stack, inside.url("/run"), 9) == [b"failed", b"1", b"ADDRESS_REFUSED"]
        assert inside.connections == 0


async def test_control_an_exception_of_the_operators_is_connected_to(stack, hooks):
    hooks.answers["/run"] = answer(200, b"")
    await sent(stack, hooks.url("/run"))
    assert hooks.connections == 1


async def test_addresses_are_checked_when_a_run_is_accepted(stack, hooks):
    async with stack.here() as replica:
        await replica.check(hooks.url("/run"))
        for url in (
            "http://example.com/",
            "https://127.0.0.1/",
            "https://localhost/",
            "https://[::1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://0x7f.1/",
            "https://example.com:22/",
            "https://user:hunter2@example.com/",
        ):
            with pytest.raises(InvalidArgument) as caught:
                await replica.check(url)
            assert list(caught.value.fields) == ["callback_url"]
            assert "hunter2" not in caught.value.message + str(caught.value.fields)
