"""Callbacks: checked before a run is accepted, put when it has ended, and again when its process is gone."""

import asyncio

import orjson
import pytest

from services.kit.errors import InvalidArgument, StoreUnavailable
from services.orchestrator.domain.run import CallbackOutcome
from tests.support.orchestrator import ALICE, SESSION, act_as, bench

URL = "https://example.com/hook"


@pytest.fixture
async def b():
    async with bench() as made:
        yield made


async def put(b):
    """What is in the queue of callbacks."""
    return [orjson.loads(each.item.body) for each in await b.queue.claim(["callbacks"], 10, 0.5)]


async def done(b, **request):
    run_id = await b.begin("hello", callback_url=URL, queue="SIMPLE", **request)
    worker = b.another(classes=("SIMPLE",))
    await (await worker.take(ALICE, SESSION, 1))
    await asyncio.wait_for(b.events(run_id), 2)
    await worker.close()
    return run_id


async def test_an_address_that_is_not_called_is_refused_before_anything_is_touched(b):
    with pytest.raises(InvalidArgument) as raised:
        await b.begin("hello", callback_url="http://10.0.0.1/hook")
    assert "callback_url" in raised.value.fields
    assert b.store._session(ALICE, SESSION).runs == []


async def test_the_address_is_told_once_the_run_has_ended(b):
    run_id = await done(b)
    (told,) = await put(b)
    assert told | {"end_ms": 0} == {
        "tenant": "acme",
        "user": "alice",
        "run_id": run_id,
        "url": URL,
        "state": "completed",
        "end_ms": 0,
    }
    assert await b.runs.callback(ALICE, run_id) == CallbackOutcome("pending")


async def test_a_queue_that_is_away_for_a_moment_loses_no_callback(b, monkeypatch):
    monkeypatch.setattr("services.orchestrator.core.callbacks._RETRY_S", 0.01)
    really, tries = b.queue.put, []

    async def away(queue, items):
        if queue == "callbacks":
            tries.append(items)
        if 0 < len(tries) < 4:
            raise StoreUnavailable("the store does not answer")
        await really(queue, items)

    b.queue.put = away
    await done(b)
    assert len(await put(b)) == 1


async def test_when_the_process_died_the_callback_is_put_by_whoever_takes_over_and_only_while_it_is_pending(b):
    run_id = await done(b)
    await put(b)
    act_as(ALICE)
    for reason, state in (("", "completed"), ("CANCELLED", "cancelled"), ("MODEL_UNAVAILABLE", "failed")):
        b.callbacks._queue = b.queue = type(b.queue)(type(b.queue._shared)(), 30.0)
        await b.callbacks.send_again(ALICE, run_id, reason, 1)
        (told,) = await put(b)
        assert told["state"] == state
    b.called_back.outcomes["acme", run_id] = CallbackOutcome("delivered", 1)
    b.callbacks._queue = b.queue = type(b.queue)(type(b.queue._shared)(), 30.0)
    await b.callbacks.send_again(ALICE, run_id, "", 1)
    assert await b.queue.claim(["callbacks"], 1, 0.01) == []
