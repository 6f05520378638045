"""A queue that takes no more of a tenant: who asks is told and nothing is kept; what was accepted is not lost."""

import asyncio

import pytest

from myriad.orchestrator.v1 import run_pb2
from services.kit.errors import ModelUnavailable, QueueFull, RunNotFound, StoreUnavailable
from services.kit.hints import RunHint
from services.kit.status import from_proto
from services.orchestrator.config import Config
from services.orchestrator.core import accepting
from services.orchestrator.core.accepting import Accepting
from services.orchestrator.servicer import OrchestratorServicer
from tests.support.held_put import HeldPut
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

QUICK = Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=1.0, retry_s=0.05)
OTHER = "s2"


@pytest.fixture
async def b():
    async with bench(config=QUICK) as made:
        made.store.add_session(ALICE, OTHER, "aura")
        made.servicer = OrchestratorServicer(made.runs, None, None, None)
        made.runs.start()
        made.queue._max = 1
        act_as(ALICE)
        yield made


def asked(session=OTHER, **fields):
    return run_pb2.CreateRunRequest(session_id=session, input="hello", **fields)


async def create(b, **fields):
    return (await b.servicer.CreateRun(asked(**fields), None)).run.run_id


async def queued(b):
    return (await b.queue.stats("SIMPLE")).waiting + (await b.queue.stats("SIMPLE")).delayed


async def take(b, filled_by=None):
    """A worker takes a run and ends it; before that, another may have come into its place in the queue."""
    (claimed,) = await b.queue.claim(["SIMPLE"], 1, 0)
    await b.queue.done(claimed)
    if filled_by is not None:
        await filled_by
    hint = RunHint.read(claimed.item.body)
    worker = b.another(QUICK, classes=["SIMPLE"])
    await (await worker.take(ALICE, hint.session_id, hint.run))
    await worker.close()


@pytest.mark.parametrize("later", [False, True])
async def test_a_run_for_a_full_queue_is_refused_and_nothing_of_it_is_kept(b, later):
    if later:
        await b.begin("due later", queue="SIMPLE", due_ms=4_000_000_000_000)
    else:
        assert await create(b, session=SESSION)  # the control: there is room
    with pytest.raises(QueueFull) as refused:
        await create(b, request_id="r1")
    assert refused.value.retry_after
    assert await queued(b) == 1
    with pytest.raises(RunNotFound):
        await b.runs.bounds(ALICE, f"{OTHER}.1")
    assert not [run for run in b.store._sessions[ALICE.tenant, OTHER].runs if run.queued]


async def test_the_same_request_is_accepted_once_there_is_room_and_found_again_when_there_is_none(b):
    await create(b, session=SESSION)
    with pytest.raises(QueueFull):
        await create(b, request_id="r1")
    await take(b)
    run_id = await create(b, request_id="r1")
    assert await create(b, request_id="r1") == run_id
    await take(b)
    assert kinds(await b.events(run_id))[-1] == "completed"


@pytest.mark.parametrize(("most", "reasons"), [(1, ["", "QUEUE_FULL"]), (2, ["", ""])])
async def test_of_a_batch_only_those_are_refused_that_the_queue_does_not_take(b, most, reasons):
    b.queue._max = most
    batch = run_pb2.CreateRunsRequest(requests=[asked(SESSION), asked(OTHER)])
    results = (await b.servicer.CreateRuns(batch, None)).results
    errors = [from_proto(each.error) if each.HasField("error") else None for each in results]
    assert [error.reason if error else "" for error in errors] == reasons
    assert all(error.retry_after for error in errors if error)


@pytest.mark.parametrize("due_ms", [0, 4_000_000_000_000])
async def test_a_run_that_is_cancelled_before_it_begins_makes_room(b, due_ms):
    run_id = await b.begin("hello", queue="SIMPLE", due_ms=due_ms)
    with pytest.raises(QueueFull):  # the control
        await create(b)
    await b.runs.cancel(ALICE, run_id)
    assert await queued(b) == 0
    assert await create(b)


async def test_a_run_that_waits_for_its_session_gets_its_turn_in_a_full_queue(b):
    b.model.scripts = [["one"], ["two"]]
    first, second = await create(b, session=SESSION), await create(b, session=SESSION)
    await take(b, filled_by=create(b))
    assert kinds(await b.events(first))[-1] == "completed"
    assert await queued(b) == 2
    with pytest.raises(QueueFull):  # the control
        b.store.add_session(ALICE, "s3", "aura")
        await create(b, session="s3")
    await take(b)
    await take(b)
    assert kinds(await b.events(second))[-1] == "completed"


async def test_a_run_is_tried_again_in_a_full_queue(b):
    b.model.scripts = [[ModelUnavailable("away")], ["two"]]
    run_id = await create(b, session=SESSION)
    await take(b, filled_by=create(b))
    assert await queued(b) == 2
    assert (await b.runs.bounds(ALICE, run_id))[2].value == "QUEUED"


async def test_a_run_that_cannot_be_taken_back_stays_accepted_and_is_put_later(b):
    await create(b, session=SESSION)

    async def away(*_arguments):
        raise StoreUnavailable("away")

    b.store.undo = away
    run_id = await create(b)
    assert run_id == f"{OTHER}.1"
    await until(lambda: len(b.queue._shared.entries) == 2, 2)


async def twice(b, after=lambda: None):
    """Two ask the same of a queue that is full: the first is held on its way there, and the second sees its run."""
    await create(b, session=SESSION)
    held = HeldPut(b.queue, after)
    first = asyncio.create_task(create(b, request_id="r1"))
    await held.reached.wait()
    second = asyncio.create_task(create(b, request_id="r1"))
    await asyncio.sleep(0.03)
    return held, first, second


async def test_who_repeats_a_request_that_is_being_refused_is_refused_too(b):
    held, first, second = await twice(b)
    assert not second.done()
    held.go.set()
    for asking in (first, second):
        with pytest.raises(QueueFull):
            await asking
    assert not [run for run in b.store._sessions[ALICE.tenant, OTHER].runs if run.queued]


async def test_who_repeats_it_begins_a_run_of_its_own_when_there_is_room_by_then(b):
    held, first, second = await twice(b, after=lambda: setattr(b.queue, "_max", 2))
    held.go.set()
    with pytest.raises(QueueFull):
        await first
    assert (await b.runs.bounds(ALICE, await second))[2].value == "QUEUED"
    assert await create(b, request_id="r1") == await second


async def test_control_who_does_not_wait_for_that_is_told_of_a_run_that_vanishes(b, monkeypatch):
    async def at_once(*_arguments):
        return True

    monkeypatch.setattr(Accepting, "_is_accepted", at_once)
    b.runs._takeover.look_after = lambda *_session, **_must: None  # as when very many are looked after
    held, first, second = await twice(b)
    run_id = await second
    held.go.set()
    with pytest.raises(QueueFull):
        await first
    with pytest.raises(RunNotFound):
        await b.runs.bounds(ALICE, run_id)


async def test_a_run_that_somebody_was_told_of_meanwhile_is_not_taken_back(b, monkeypatch):
    monkeypatch.setattr(accepting, "_UNSURE_S", 0.05)
    held, first, second = await twice(b)
    run_id = await second
    held.go.set()
    assert await first == run_id
    await until(lambda: len(b.queue._shared.entries) == 2, 2)
    assert (await b.runs.bounds(ALICE, run_id))[2].value == "QUEUED"


async def test_a_run_whose_worker_is_faster_than_its_log_says_that_it_was_queued(b):
    async def begins(*_arguments):
        await take(b)
        return await announce(*_arguments)

    announce, b.store.announce = b.store.announce, begins
    assert kinds(await b.events(await create(b)))[:2] == ["started", "queued"]
