"""Callbacks: checked before a run is accepted, put when it has ended, and again when its process is gone."""

import asyncio

import orjson
import pytest

from services.kit.errors import InvalidArgument, Overloaded, StoreUnavailable
from services.orchestrator.core import callbacks
from services.orchestrator.core.callbacks import Callbacks
from services.orchestrator.domain.run import CallbackOutcome
from tests.support.orchestrator import ALICE, SESSION, act_as, bench
from tests.support.waiting import until

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


async def test_a_run_cancelled_in_the_line_is_told_of_though_who_accepted_it_died_before_it_kept_the_address(b):
    expect, b.called_back.expect = b.called_back.expect, lambda *_: asyncio.sleep(0)
    run_id = await b.begin("hello", callback_url=URL, queue="SIMPLE")
    b.called_back.expect = expect
    act_as(ALICE)
    await b.another().cancel(ALICE, run_id)
    (told,) = await put(b)
    assert (told["run_id"], told["url"], told["state"]) == (run_id, URL, "cancelled")


async def test_a_run_whose_record_is_damaged_is_cancelled_in_the_line_and_told_of_all_the_same(b):
    run_id = await b.begin("hello", callback_url=URL, queue="SIMPLE")
    b.store._run(ALICE, run_id).record = b"damaged"
    act_as(ALICE)
    await b.runs.cancel(ALICE, run_id)
    assert [told["state"] for told in await put(b)] == ["cancelled"]


class Away:
    """A queue that takes no callback until it is back."""

    def __init__(self, queue):
        self._put, self.tries, self.back = queue.put, [], asyncio.Event()

    async def __call__(self, queue, items, **how):
        if queue == "callbacks" and not self.back.is_set():
            self.tries.append(items)
            raise StoreUnavailable("the store does not answer")
        await self._put(queue, items, **how)


async def test_a_queue_that_is_away_for_long_loses_no_callback_and_its_sessions_are_held_until_then(b):
    b.callbacks = Callbacks(b.called_back, b.queue, b.tools, retry_s=0.001)
    b.queue.put = away = Away(b.queue)
    run_id = await b.begin("hello", callback_url=URL, queue="SIMPLE")
    dropped = await b.begin("never", callback_url=URL, queue="SIMPLE")
    worker = b.another(classes=("SIMPLE",))
    act_as(ALICE)
    await worker.cancel(ALICE, dropped)
    await (await worker.take(ALICE, SESSION, 1))
    await asyncio.wait_for(b.events(run_id, runs=worker), 2)
    await until(lambda: len(away.tries) > 8)
    assert worker._takeover._kept() == [(ALICE, SESSION)] * 2
    tried = len(away.tries)
    await asyncio.sleep(0.05)
    assert len(away.tries) - tried < 5  # slower and slower
    away.back.set()
    await until(lambda: not worker._takeover._kept())
    assert {each["run_id"]: each["state"] for each in await put(b)} == {run_id: "completed", dropped: "cancelled"}
    await worker.close()


async def test_no_run_is_taken_while_as_many_callbacks_wait_as_may_and_none_is_forgotten(b, monkeypatch):
    monkeypatch.setattr(callbacks, "_MOST", 1)
    b.callbacks = Callbacks(b.called_back, b.queue, b.tools, retry_s=0.001)
    b.queue.put = away = Away(b.queue)
    worker = b.another(classes=("SIMPLE",))
    runs = [await b.begin("hello", callback_url=URL, queue="SIMPLE") for _ in range(3)]
    await (await worker.take(ALICE, SESSION, 1))  # the control: there is room
    await until(lambda: len(worker._takeover._kept()) == 1)
    refused = (
        worker.take(ALICE, SESSION, 2),
        worker.give_up(ALICE, SESSION, 2, StoreUnavailable("away")),
        worker.cancel(ALICE, runs[2]),
    )
    for each in refused:
        with pytest.raises(Overloaded) as error:
            await each
        assert error.value.retry_after
    away.back.set()
    await until(lambda: not worker._takeover._kept())
    await worker.cancel(ALICE, runs[2])
    await (await worker.take(ALICE, SESSION, 2))
    told = {each["run_id"]: each["state"] for each in await put(b)}
    assert told == dict(zip(runs, ("completed", "completed", "cancelled"), strict=True))
    await worker.close()


async def test_a_process_that_is_told_to_stop_while_the_queue_is_away_leaves_its_callbacks_to_others(b):
    b.queue.put = away = Away(b.queue)
    run_id = await done(b)
    away.back.set()
    assert await b.queue.claim(["callbacks"], 1, 0.3) == []  # it tries no more
    await b.callbacks.send_again(ALICE, run_id, "", 1)  # as whoever takes its sessions over does
    (told,) = await put(b)
    assert (told["run_id"], told["state"]) == (run_id, "completed")


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
