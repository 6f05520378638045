"""Callbacks: to whom, how often, and what becomes of them."""

import json
import time
from dataclasses import replace

import orjson
import pytest

from services.kit.call import Principal
from services.kit.errors import InvalidArgument, StoreUnavailable
from services.kit.queue import CALLBACK_QUEUE, Claimed, Item, Unreadable
from services.toolexec.core import consumer
from services.toolexec.core.callbacks import Rules
from services.toolexec.core.signing import Signer
from services.toolexec.domain import CallbackState, HttpResponse
from tests.support.toolexec import ANN, SECRET, Process, Shared
from tests.support.waiting import until

HOOK = "https://hooks.example:443/run"
RULES = Rules(frozenset({443}), attempts=3, first_delay_s=0.01, timeout_s=0.1)
ENDED = {
    "tenant": "acme",
    "user": "ann",
    "run_id": "s1.7",
    "url": HOOK,
    "state": "completed",
    "end_ms": 1_767_000_000_123,
}


def answers(status: int, location: str = "") -> HttpResponse:
    return HttpResponse(status, "text/plain", b"whatever", truncated=False, location=location)


def outside(first: HttpResponse | None = None, **settings) -> Process:
    """A process, and an outside with one address that answers."""
    return Process(Shared(), answers={HOOK: first or answers(204)}, private=frozenset({"10.0.0.1"}), **settings)


async def sent(process: Process, **changes) -> tuple[CallbackState, int, str]:
    """What became of a callback."""
    body = orjson.dumps(ENDED | changes)
    async with process:
        await process.queue.put(CALLBACK_QUEUE, [Item("acme/s1.7", "acme", body)])
        await until(lambda: not process.shared.queues.entries)
    return process.shared.outcomes.kept["acme", "s1.7"]


async def test_the_end_of_a_run_is_told():
    process = outside()
    assert await sent(process) == (CallbackState.DELIVERED, 1, "")
    (request,) = process.caller.requests
    assert (request.method, str(request.url), request.public_only) == ("POST", HOOK, True)
    assert json.loads(request.body) == {
        "type": "run.completed",
        "timestamp": "2025-12-29T09:20:00.123Z",
        "data": {"run_id": "s1.7", "session_id": "s1", "state": "completed"},
    }
    assert request.headers["Content-Type"] == "application/json"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 5


async def test_nothing_of_the_caller_is_in_the_headers():
    process = outside()
    await sent(process)
    (request,) = process.caller.requests
    assert set(request.headers) == {
        "Accept-Encoding",
        "Content-Type",
        "User-Agent",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
    assert not any(word in str(request.headers) for word in ("acme", "ann", "s1"))
    assert "." not in request.headers["webhook-id"]


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_every_status_of_success_is_delivered(status):
    assert await sent(outside(answers(status))) == (CallbackState.DELIVERED, 1, "")


@pytest.mark.parametrize("status", [199, 302, 307, 400, 404, 429, 500, 503])
async def test_every_other_status_is_tried_again_and_given_up(status):
    process = outside(answers(status, "https://elsewhere.example/"))
    assert await sent(process) == (CallbackState.FAILED, 3, str(status))
    assert {str(each.url) for each in process.caller.requests} == {HOOK}  # no redirect is followed


async def test_a_repeated_message_has_the_same_id():
    process = outside(answers(503))
    await sent(process)
    assert len({each.headers["webhook-id"] for each in process.caller.requests}) == 1
    assert len({each.body for each in process.caller.requests}) == 1


async def test_a_message_that_is_taken_later_is_delivered():
    process = outside(answers(503))
    call = process.caller.call

    async def better(request):
        if len(process.caller.requests) == 1:
            process.caller._answers = {HOOK: answers(200)}
        return await call(request)

    process.caller.call = better
    assert await sent(process) == (CallbackState.DELIVERED, 2, "")


async def test_an_address_that_is_gone_is_not_tried_again():
    process = outside(answers(410))
    assert await sent(process) == (CallbackState.FAILED, 1, "410")
    assert len(process.caller.requests) == 1


async def test_an_address_that_does_not_answer_is_given_up_with_the_reason():
    silent = Process(Shared(), answers={HOOK: None}, rules=replace(RULES, attempts=2, timeout_s=0.02))
    assert await sent(silent) == (CallbackState.FAILED, 2, "TOOL_TIMEOUT")
    assert await sent(Process(Shared())) == (CallbackState.FAILED, 3, "TOOL_UNAVAILABLE")


@pytest.mark.parametrize("url", ["https://10.0.0.1/", "http://hooks.example/run", "ftp://x/", "https://h:22/", ""])
async def test_an_address_that_may_not_be_called_by_now_is_given_up_at_once(url):
    assert await sent(outside(), url=url) == (CallbackState.FAILED, 1, "ADDRESS_REFUSED")


async def test_without_a_key_nothing_leaves():
    process = outside(signer=Signer({}, []))
    assert await sent(process) == (CallbackState.FAILED, 3, "NO_SIGNING_KEY")
    assert process.caller.requests == []


async def test_what_was_delivered_is_not_sent_again():
    process = outside()
    await sent(process)
    await sent(process)
    assert len(process.caller.requests) == 1


async def test_an_outcome_that_cannot_be_kept_is_tried_again(monkeypatch):
    process = outside()
    monkeypatch.setattr(consumer, "_AGAIN_S", (0.01, 0.05))
    note = process.shared.outcomes.note
    failures = iter([StoreUnavailable("away")])

    async def flaky(*arguments):
        error = next(failures, None)
        if error is not None:
            raise error
        await note(*arguments)

    process.shared.outcomes.note = flaky
    assert await sent(process) == (CallbackState.DELIVERED, 2, "")
    assert len({each.headers["webhook-id"] for each in process.caller.requests}) == 1


def test_delays_double_up_to_the_longest_and_are_spread():
    sender = Process(Shared(), rules=Rules(frozenset(), first_delay_s=5, longest_delay_s=60)).callbacks
    for attempts, delay in ((1, 5), (2, 10), (3, 20), (5, 60), (200, 60)):
        drawn = [sender._delay(attempts) for _ in range(200)]
        assert delay / 2 <= min(drawn) < 0.6 * delay
        assert 0.9 * delay < max(drawn) <= delay


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"tenant": "acme"}', orjson.dumps(ENDED | {"state": "odd"}), b"\xff"]
)
async def test_an_item_that_is_none_is_said_to_be(body):
    process = outside()
    claimed = Claimed(CALLBACK_QUEUE, Item("x", "acme", body), 1)
    with pytest.raises(Unreadable):
        await process.callbacks.work(claimed)
    assert process.caller.requests == []


# Which addresses may be called back.


@pytest.mark.parametrize(
    "url", ["https://hooks.example/run?a=1", "https://hooks.example:443", "HTTPS://Hooks.Example/"]
)
async def test_a_public_https_address_may_be_called(url):
    await outside().callbacks.check(ANN, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/run",
        "https://10.0.0.1/run",
        "https://hooks.example:22/",
        "https://user:secret@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example/../x",
        "https:///x",
        "file:///etc/passwd",
        "https://hooks.example:0/",
        "nonsense",
        "",
    ],
)
async def test_every_other_is_refused_by_its_field(url):
    with pytest.raises(InvalidArgument) as caught:
        await outside().callbacks.check(ANN, url)
    assert list(caught.value.fields) == ["callback_url"]
    assert "secret" not in str(caught.value.fields)


async def test_the_operators_exceptions_may_be_called_and_nothing_beside_them():
    rules = replace(RULES, exceptions=("http://10.0.0.1:9000",))
    process = Process(
        Shared(), answers={"http://10.0.0.1:9000/run": answers(200)}, private=frozenset({"10.0.0.1"}), rules=rules
    )
    await process.callbacks.check(ANN, "http://10.0.0.1:9000/run")
    assert (await sent(process, url="http://10.0.0.1:9000/run"))[0] is CallbackState.DELIVERED
    for url in ("http://10.0.0.1:9001/", "https://10.0.0.1:9000/", "http://10.0.0.2:9000/"):
        with pytest.raises(InvalidArgument):
            await process.callbacks.check(ANN, url)


@pytest.mark.parametrize("exception", ["10.0.0.1:9000", "http://10.0.0.1:9000/path", "http://user@h", "ftp://h"])
def test_an_exception_that_is_no_origin_stops_the_start(exception):
    with pytest.raises(ValueError, match="a callback exception"):
        outside(rules=replace(RULES, exceptions=(exception,)))


async def test_a_tenant_without_a_key_is_told_so_at_once():
    process = outside(signer=Signer({}, []))
    with pytest.raises(InvalidArgument, match="may not be called back") as caught:
        await process.callbacks.check(Principal("other", "ann"), HOOK)
    assert "no key" in caught.value.fields["callback_url"]
    await outside(signer=Signer({}, [SECRET])).callbacks.check(Principal("other", "ann"), HOOK)
