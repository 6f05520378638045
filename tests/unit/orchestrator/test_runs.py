"""Runs: one log for everyone, cursors, cancel, busy sessions, and who may see what."""

import asyncio
from dataclasses import replace

import pytest

from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.kit.errors import (
    Internal,
    InvalidArgument,
    RequestIdReused,
    ResourceExhausted,
    RunNotFound,
    ServiceUnavailable,
    SessionBusy,
    SessionNotFound,
    StoreUnavailable,
    Unavailable,
)
from services.orchestrator.codec import run_of
from services.orchestrator.config import Config
from services.orchestrator.core import patience
from services.orchestrator.core.live import LiveRun
from services.orchestrator.domain.agent import Intent as IntentOf
from services.orchestrator.domain.agent import Tool, ToolBinding
from services.orchestrator.domain.run import Concurrency, Request
from services.orchestrator.domain.turn import Understanding
from tests.support.orchestrator import ALICE, EVE, MALLORY, SESSION, act_as, bench, deltas, kinds
from tests.support.waiting import until

SLOW = [f"word{n} " if n % 2 else 0.004 for n in range(1, 40)]
ENDLESS = ["on ", 60.0]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(patience, "_RETRY_S", 0.05)


@pytest.fixture
async def b():
    async with bench() as made:
        yield made


async def watched(run_id, runs):
    """A run's entries, byte for byte as they are shown."""
    return [entry async for entry in runs.watch(ALICE, run_id, 0) if entry is not None]


def tell_anew(store):
    """Has whoever reads the store be told each event anew."""
    read = store.read

    async def read_anew(*where):
        page = await read(*where)
        events = [run_event_pb2.RunEvent.FromString(entry) for entry in page.entries]
        for event in events:
            event.time.nanos ^= 1
        return replace(page, entries=tuple(event.SerializeToString() for event in events))

    store.read = read_anew


@pytest.mark.parametrize("as_kept", [True, False], ids=["guarded", "control"])
async def test_all_watchers_see_the_same_bytes(b, as_kept):
    if not as_kept:
        tell_anew(b.store)
    b.model.scripts = [SLOW]
    run_id, other = await b.begin(), b.another()
    early = asyncio.create_task(watched(run_id, b.runs))
    await until(lambda: b.store._run(ALICE, run_id).entries[3:])
    late, elsewhere = [asyncio.create_task(watched(run_id, runs)) for runs in (b.runs, other)]
    seen = await early
    assert seen == await late
    assert seen[3:]
    for each in (await elsewhere, await watched(run_id, b.runs)):
        assert len(each) == len(seen)
        assert (each == seen) is as_kept


@pytest.mark.parametrize("place", ["here", "elsewhere", "afterwards"])
async def test_a_cursor_resumes_without_holes_or_repeats(b, place):
    b.model.scripts = [SLOW]
    run_id = await b.begin()
    if place == "afterwards":
        await b.events(run_id)
    runs = b.another() if place == "elsewhere" else b.runs
    first = []
    async for entry in runs.watch(ALICE, run_id, 0):
        first.append(entry)
        if len(first) == 4:
            break
    rest = await b.events(run_id, after=4, runs=runs)
    assert [event.sequence for event in rest] == list(range(5, rest[-1].sequence + 1))
    assert rest[-1].completed.answer == "".join(word for word in SLOW if isinstance(word, str))


async def test_a_cursor_past_the_end_of_an_ended_run_ends(b):
    run_id = await b.begin()
    await b.events(run_id)
    assert await b.events(run_id, after=1000) == []


async def test_the_deltas_are_the_answer_and_come_coalesced(b):
    b.model.scripts = [["a"] * 500]
    events = await b.turn()
    assert deltas(events) == "a" * 500 == events[-1].completed.answer
    assert kinds(events).count("text_delta") < 20


async def test_the_first_delta_is_shown_at_once_and_a_later_one_soon_though_the_model_stalls(b):
    b.model.scripts = [["first", "second", 60.0]]
    run_id = await b.begin()
    seen = []

    async def watch():
        async for event in b.runs.watch(ALICE, run_id, 2):
            seen.append(event)

    task = asyncio.create_task(watch())
    await until(lambda: len(seen) == 2)
    task.cancel()


async def test_silence_sends_heartbeats(b):
    b.model.scripts = [["hm", 0.1, "done"]]
    events = await b.events(await b.begin(), heartbeats=True)
    assert "heartbeat" in events


async def test_cancel_stops_the_model_and_keeps_the_partial_answer(b):
    b.model.scripts = [ENDLESS]
    run_id = await b.begin()
    await until(lambda: b.store._run(ALICE, run_id).entries[2:])
    await b.runs.cancel(ALICE, run_id)
    events = await asyncio.wait_for(b.events(run_id), 0.5)
    assert kinds(events)[-1] == "cancelled"
    assert events[-1].cancelled.partial_answer == "on "
    assert b.model.stopped == 1
    b.model.scripts = [["Next."]]
    assert kinds(await b.turn())[-1] == "completed"


async def test_cancel_before_the_first_step_still_ends_the_run(b):
    act_as(ALICE)
    run_id = (await b.runs._accepting.begin(ALICE, Request(SESSION, "hello"))).run_id
    await b.runs.cancel(ALICE, run_id)
    assert kinds(await asyncio.wait_for(b.events(run_id), 0.5)) == ["cancelled"]


async def test_cancel_cuts_a_tool_call(b):
    tool = Tool("slow", "Slow.", {}, 60.0)
    b.agent_is(tools={"slow": tool}, intents={"go": IntentOf("go", ToolBinding("slow", {}, ""))})
    b.nlu.understanding = Understanding((("go", 0.9),))
    b.tools.hang = True
    run_id = await b.begin()
    await until(lambda: b.tools.calls)
    await b.runs.cancel(ALICE, run_id)
    assert kinds(await asyncio.wait_for(b.events(run_id), 0.5))[-1] == "cancelled"
    assert b.tools.cut


async def test_cancel_reaches_the_owner_in_another_process_with_its_next_entry(b):
    b.model.scripts = [["on ", 0.05] * 100]
    run_id = await b.begin()
    await until(lambda: b.store._run(ALICE, run_id).entries[2:])
    await b.another().cancel(ALICE, run_id)
    assert kinds(await asyncio.wait_for(b.events(run_id), 1.0))[-1] == "cancelled"


async def test_cancelling_a_run_that_has_ended_changes_nothing(b):
    run_id = await b.begin()
    events = await b.events(run_id)
    await b.runs.cancel(ALICE, run_id)
    assert await b.events(run_id) == events


async def test_a_second_turn_that_does_not_wait_is_refused_and_harms_nothing(b):
    b.model.scripts = [SLOW]
    run_id = await b.begin()
    with pytest.raises(SessionBusy) as raised:
        await b.begin(concurrency=Concurrency.REJECT)
    assert raised.value.retry_after > 0
    assert kinds(await b.events(run_id))[-1] == "completed"


async def test_the_same_request_attaches_to_the_run_it_began(b):
    run_id = await b.begin("hello", request_id="r1")
    assert await b.begin("hello", request_id="r1") == run_id
    events = await b.events(run_id)
    assert await b.begin("hello", request_id="r1") == run_id
    assert await b.events(run_id) == events
    assert len(b.model.asked) == 1
    with pytest.raises(RequestIdReused):
        await b.begin("something else", request_id="r1")


@pytest.mark.parametrize(
    "other",
    [{"queue": "SIMPLE"}, {"session": "s2"}, {"text": "hallo"}, {"concurrency": Concurrency.REJECT}],
    ids=["CreateRun", "another session", "another text", "another way"],
)
async def test_a_request_id_is_of_one_request(b, other):
    b.store.add_session(ALICE, "s2", "aura")
    asked = {"text": "hello", "request_id": "r1"}
    run_id = await b.begin(**asked)
    with pytest.raises(RequestIdReused):
        await b.begin(**asked | other)
    assert await b.begin(**asked) == run_id
    queued = await b.begin("hello", request_id="r2", queue="SIMPLE")
    with pytest.raises(RequestIdReused):
        await b.begin("hello", request_id="r2")
    assert await b.begin("hello", request_id="r2", queue="SIMPLE") == queued
    assert kinds(await b.events(run_id))[-1] == "completed"


@pytest.mark.parametrize("stranger", [MALLORY, EVE])
async def test_a_stranger_finds_neither_session_nor_run(b, stranger):
    run_id = await b.begin()
    await b.events(run_id)
    with pytest.raises(SessionNotFound):
        await b.begin(principal=stranger)
    for attempt in (b.events(run_id, principal=stranger), b.runs.bounds(stranger, run_id)):
        with pytest.raises(RunNotFound):
            await attempt
    with pytest.raises(RunNotFound):
        await b.runs.cancel(stranger, run_id)


async def test_a_stranger_neither_sees_nor_stops_a_run_at_work(b):
    b.model.scripts = [SLOW]
    run_id = await b.begin()
    for stranger in (MALLORY, EVE):
        with pytest.raises(RunNotFound):
            await b.events(run_id, principal=stranger)
        with pytest.raises(RunNotFound):
            await b.runs.cancel(stranger, run_id)
    assert kinds(await b.events(run_id))[-1] == "completed"


async def test_an_unknown_run_is_not_found(b):
    with pytest.raises(RunNotFound):
        await b.events(f"{SESSION}.7")


async def test_a_caller_who_leaves_while_the_run_begins_is_told_of(b):
    b.model.scripts = [ENDLESS]
    begin_turn, go = b.store.begin_turn, asyncio.Event()

    async def slow_begin(*args):
        await go.wait()
        return await begin_turn(*args)

    b.store.begin_turn = slow_begin
    told = []
    act_as(ALICE)
    task = asyncio.create_task(b.runs.begin(ALICE, Request(SESSION, "hello"), told.append))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    await until(lambda: told == [f"{SESSION}.1"])


async def test_a_store_that_goes_away_ends_the_watch_with_an_error():
    async def gone(*_args):
        raise StoreUnavailable("the store does not answer")

    async with bench(config=Config(coalesce_s=0.01, end_s=0.15)) as b:
        b.model.scripts = [SLOW]
        run_id = await b.begin()
        await until(lambda: b.store._run(ALICE, run_id).entries[2:])
        b.store.append = b.store.commit_turn = b.store.abandon_turn = gone
        with pytest.raises(StoreUnavailable):
            await b.events(run_id)


@pytest.mark.parametrize("written", [True, False])
async def test_a_reply_of_the_store_that_is_lost_loses_and_doubles_nothing(b, written):
    append, lost = b.store.append, []

    async def losing(*args):
        if args[3] and len(lost) < 2:
            lost.append(args)
            if written:
                await append(*args)
            raise StoreUnavailable("the store does not answer")
        return await append(*args)

    b.model.scripts = [["one ", 0.1, "two ", 0.1, "three"]]
    b.agent_is(max_answer_tokens=64)
    run_id = await b.begin()
    await until(lambda: b.store._run(ALICE, run_id).entries or lost)
    b.store.append = losing
    events = await b.events(run_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert deltas(events) == getattr(events[-1], kinds(events)[-1]).answer == "one two three"


async def test_the_last_entry_is_shown_once_and_only_with_the_commit():
    async with bench(config=Config(lease_s=0.03, coalesce_s=0.01)) as b:
        commit, shown = b.store.commit_turn, []

        async def slow_commit(*args):
            await asyncio.sleep(0.15)
            shown.append(len(b.runs._driver.live[ALICE.tenant, run_id].shown.entries))
            await commit(*args)

        b.store.commit_turn = slow_commit
        run_id = await b.begin()
        events = await b.events(run_id)
        assert kinds(events) == ["started", "routed", "text_delta", "completed"]
        assert [event.sequence for event in events] == [1, 2, 3, 4]
        assert shown == [3]


async def test_a_commit_is_tried_again_while_the_store_is_away(b):
    commit, tries = b.store.commit_turn, []

    async def away(*args):
        tries.append(args)
        if len(tries) < 3:
            raise StoreUnavailable("the store does not answer")
        await commit(*args)

    b.store.commit_turn = away
    assert kinds(await b.turn())[-1] == "completed"
    assert len(tries) == 3


@pytest.mark.parametrize("error", [InvalidArgument("too long"), RuntimeError("a bug")])
async def test_a_commit_that_cannot_be_ends_the_run_all_the_same(b, error):
    async def refused(*args):
        raise error

    b.store.commit_turn = refused
    run_id = await b.begin()
    try:
        events = await asyncio.wait_for(b.events(run_id), 2)
        assert events[-1].failed.error.message == "internal error"
    except Internal:
        assert isinstance(error, RuntimeError)
    assert not b.runs._driver.live


async def test_a_run_whose_owner_died_and_that_nobody_can_take_over_is_failed(b):
    b.model.scripts = [ENDLESS]
    run_id = await b.begin()
    await until(lambda: b.store._run(ALICE, run_id).entries[2:])
    *bounds, standing = await b.another().bounds(ALICE, run_id)
    assert run_of(*bounds, standing).state == run_pb2.RUN_STATE_RUNNING
    b.store._run(ALICE, run_id).lease_ends, b.store._run(ALICE, run_id).record = 0.0, b""
    *bounds, standing = await b.another().bounds(ALICE, run_id)
    assert run_of(*bounds, standing).state == run_pb2.RUN_STATE_FAILED


async def test_a_run_nobody_works_on_any_more_is_not_waited_for(b):
    b.model.scripts = [ENDLESS]
    run_id = await b.begin()
    await until(lambda: b.store._run(ALICE, run_id).entries[2:])
    b.store._run(ALICE, run_id).lease_ends, b.store._run(ALICE, run_id).record = 0.0, b""
    with pytest.raises(ServiceUnavailable):
        await b.events(run_id, runs=b.another())


async def test_a_run_at_work_holds_its_session_beyond_the_first_lease():
    async with bench(config=Config(lease_s=0.06), lease_s=0.06) as b:
        b.model.scripts = [ENDLESS]
        run_id = await b.begin()
        await asyncio.sleep(0.15)
        with pytest.raises(SessionBusy):
            await b.begin(concurrency=Concurrency.REJECT)
        await b.runs.cancel(ALICE, run_id)
        assert kinds(await b.events(run_id))[-1] == "cancelled"


async def test_a_run_that_lost_its_session_stops_its_model():
    async with bench(config=Config(lease_s=0.06)) as b:
        b.model.scripts = [ENDLESS]
        run_id = await b.begin()
        await until(lambda: b.model.asked)
        b.store._run(ALICE, run_id).over = True
        await until(lambda: b.model.stopped == 1)


@pytest.mark.parametrize("hands_over", [True, False], ids=["guarded", "control"])
async def test_closing_hands_every_run_over(b, monkeypatch, hands_over):
    if not hands_over:
        monkeypatch.setattr(LiveRun, "hand_over", lambda run: asyncio.sleep(0))
    b.model.scripts = [ENDLESS]
    run_id = await b.begin()
    await until(lambda: b.store._run(ALICE, run_id).entries[2:])
    watching = asyncio.create_task(b.events(run_id))
    await asyncio.sleep(0)
    await b.runs.close()
    with pytest.raises(ServiceUnavailable):
        await watching
    b.model.scripts = [["all of it"]]
    other = b.another()
    other.start()
    going_on = asyncio.wait_for(b.events(run_id, runs=other), 5 if hands_over else 0.2)
    if hands_over:
        assert (await going_on)[-1].completed.answer == "all of it"
    else:
        with pytest.raises(TimeoutError):  # nobody may, until the lease is over
            await going_on
    await other.close()


async def test_runs_beyond_the_limit_are_refused_with_a_time_to_wait():
    async with bench(config=Config(max_runs=1)) as b:
        b.model.scripts = [ENDLESS]
        b.store.add_session(ALICE, "s2", "aura")
        await b.begin()
        with pytest.raises(ResourceExhausted) as raised:
            await b.begin(session="s2")
        assert raised.value.retry_after == 1.0


async def test_a_burst_does_not_go_beyond_the_limit():
    async with bench(config=Config(max_runs=2)) as b:
        b.model.scripts = [ENDLESS]
        for number in range(6):
            b.store.add_session(ALICE, f"burst{number}", "aura")
        tries = [b.begin(session=f"burst{number}") for number in range(6)]
        ends = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(end, ResourceExhausted) for end in ends) == 4


async def test_a_run_that_was_beginning_when_the_service_stopped_is_handed_over_too(b):
    b.model.scripts = [ENDLESS]
    begin, slowly = b.store.begin_turn, asyncio.Event()

    async def slow_begin(*args):
        await slowly.wait()
        return await begin(*args)

    b.store.begin_turn = slow_begin
    beginning = asyncio.create_task(b.begin())
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(b.runs.close())
    await asyncio.sleep(0.01)
    slowly.set()
    run_id = await beginning
    await asyncio.wait_for(closing, 1)
    assert b.store._run(ALICE, run_id).lease_ends == 0.0
    with pytest.raises(Unavailable):
        await b.begin()
