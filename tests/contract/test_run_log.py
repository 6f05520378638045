"""One list of behaviours for the store side of turns: in memory, and Redis behind the memory service."""

import asyncio
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

import pytest

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import (
    ApprovalInvalid,
    LeaseLost,
    RequestIdReused,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
)
from services.orchestrator.adapters.inmemory import InMemoryTurns
from services.orchestrator.adapters.memory import MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.domain.agent import Message, Role, ToolCall
from services.orchestrator.domain.run import (
    Concurrency,
    Dropped,
    Next,
    Page,
    Request,
    Responded,
    Standing,
    Stop,
    Turn,
    Waiting,
)
from tests.support.memory import running_memory
from tests.support.orchestrator import act_as
from tests.support.valkey import UserRedis, as_user

SAID = [Message(Role.USER, "hello"), Message(Role.ASSISTANT, "hi")]


@dataclass
class Store:
    """Both ports over one store, and a session in it."""

    turns: Any
    log: Any
    owner: Principal
    session_id: str

    async def begin(self, request_id: str = "", digest: bytes = b"d", record: bytes = b"") -> Turn:
        act_as(self.owner)
        return await self.turns.begin_turn(Request(self.session_id, "hello", request_id), digest, 30.0, record)


@pytest.fixture(scope="module")
async def memory_on_valkey(valkey_url):
    async with running_memory(as_user(valkey_url, "memory")) as memory:
        redis = UserRedis(valkey_url, "orchestrator")
        yield memory, redis
        await redis.close()


@pytest.fixture(params=["inmemory", "redis"])
async def store(request, memory_on_valkey):
    owner = Principal(f"tenant-{uuid.uuid4().hex}", "alice")
    if request.param == "inmemory":
        turns = InMemoryTurns()
        turns.add_session(owner, "s1", "aura")
        return Store(turns, turns, owner, "s1")
    memory, redis = memory_on_valkey
    await memory.put_agent(owner)
    return Store(MemoryTurns(memory.client), RedisRunLog(redis, 60.0, 30.0), owner, await memory.session(owner))


async def test_entries_are_read_as_they_were_appended(store):
    turn = await store.begin()
    assert not await store.log.append(store.owner, turn, 1, [b"one", b"two"])
    assert not await store.log.append(store.owner, turn, 3, [b"three"])
    page = await store.log.read(store.owner, turn.run_id, 0, 10)
    assert page == Page((b"one", b"two", b"three"), Standing.AT_WORK)
    assert (await store.log.read(store.owner, turn.run_id, 1, 1)).entries == (b"two",)
    assert (await store.log.read(store.owner, turn.run_id, 9, 1)).entries == ()
    assert await store.log.bounds(store.owner, turn.run_id) == (b"one", b"three", Standing.AT_WORK)


async def test_appending_again_changes_nothing(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    await store.log.append(store.owner, turn, 1, [b"one", b"two"])
    assert (await store.log.read(store.owner, turn.run_id, 0, 10)).entries == (b"one", b"two")
    with pytest.raises(LeaseLost):
        await store.log.append(store.owner, turn, 2, [b"other"])


async def test_a_commit_may_bring_entries_that_the_log_has_already(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one", b"two"])
    with pytest.raises(LeaseLost):
        await store.turns.commit_turn(turn, SAID, [b"other", b"end"], 2)
    await store.turns.commit_turn(turn, SAID, [b"two", b"three", b"end"], 2)
    page = await store.log.read(store.owner, turn.run_id, 0, 10)
    assert page.entries == (b"one", b"two", b"three", b"end")


async def test_a_commit_ends_the_log_keeps_the_messages_and_frees_the_session(store):
    turn = await store.begin()
    with pytest.raises(SessionBusy):
        await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    await store.turns.commit_turn(turn, SAID, [b"end"], 2)
    await store.turns.commit_turn(turn, SAID, [b"end"], 2)
    page = await store.log.read(store.owner, turn.run_id, 0, 10)
    assert page == Page((b"one", b"end"), Standing.OVER)
    following = await store.begin()
    assert [(m.role, m.content) for m in following.history] == [(m.role, m.content) for m in SAID]
    assert following.fencing_token > turn.fencing_token
    assert following.run_id == f"{store.session_id}.2"


async def test_an_abandoned_turn_leaves_a_log_and_no_messages(store):
    turn = await store.begin()
    await store.turns.abandon_turn(turn, [b"end"], 1)
    assert (await store.log.read(store.owner, turn.run_id, 0, 10)).entries == (b"end",)
    assert (await store.begin()).history == ()


async def test_an_ended_turn_can_write_nothing(store):
    turn = await store.begin()
    await store.turns.abandon_turn(turn, [b"end"], 1)
    with pytest.raises(LeaseLost):
        await store.log.append(store.owner, turn, 2, [b"more"])
    await store.begin()
    with pytest.raises(LeaseLost):
        await store.turns.commit_turn(turn, SAID, [b"another end"], 2)


async def test_a_session_is_free_again_after_its_lease_unless_it_is_held_on(store):
    act_as(store.owner)
    turn = await store.turns.begin_turn(Request(store.session_id, "hello"), b"", 0.1)
    await asyncio.sleep(0.15)
    await store.log.append(store.owner, turn, 1, [])
    with pytest.raises(SessionBusy):
        await store.begin()
    await store.turns.abandon_turn(turn, [b"end"], 1)
    await store.turns.begin_turn(Request(store.session_id, "hello"), b"", 0.1)
    await asyncio.sleep(0.15)
    assert (await store.begin()).run_id == f"{store.session_id}.3"


async def test_many_sessions_are_held_on_in_one_round_each_with_its_own_answer(store):
    act_as(store.owner)
    turn = await store.turns.begin_turn(Request(store.session_id, "hello"), b"", 0.1)
    gone = replace(turn, fencing_token=turn.fencing_token - 1)
    await asyncio.sleep(0.15)
    answers = await store.log.hold([(store.owner, turn), (store.owner, gone)])
    assert answers[0] is Stop.NO
    assert isinstance(answers[1], LeaseLost)
    with pytest.raises(SessionBusy):
        await store.begin()
    await store.log.request_cancel(store.owner, turn.run_id)
    assert await store.log.hold([(store.owner, turn)]) == [Stop.STOP]


async def test_a_stop_is_told_with_the_next_append(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    await store.log.request_cancel(store.owner, turn.run_id)
    assert await store.log.append(store.owner, turn, 2, [b"two"])
    await store.turns.abandon_turn(turn, [b"end"], 3)
    await store.log.request_cancel(store.owner, turn.run_id)
    assert not await store.log.append(store.owner, await store.begin(), 1, [b"next"])


async def test_the_same_request_attaches_and_another_body_is_refused(store):
    turn = await store.begin("r1", b"body")
    again = await store.begin("r1", b"body")
    assert (again.run_id, again.attached) == (turn.run_id, True)
    with pytest.raises(RequestIdReused):
        await store.begin("r1", b"other")


async def test_a_stranger_finds_nothing(store):
    turn = await store.begin()
    await store.log.append(store.owner, turn, 1, [b"one"])
    for stranger in (Principal(store.owner.tenant, "mallory"), Principal("evil", "alice")):
        act_as(stranger)
        with pytest.raises(SessionNotFound):
            await store.turns.begin_turn(Request(store.session_id, "hello"), b"", 1.0)
        with pytest.raises(SessionNotFound):
            await store.turns.agent_of(store.session_id)
        for attempt in (
            store.log.read(stranger, turn.run_id, 0, 10),
            store.log.bounds(stranger, turn.run_id),
            store.log.request_cancel(stranger, turn.run_id),
        ):
            with pytest.raises(RunNotFound):
                await attempt


async def test_a_run_that_never_was_is_not_found(store):
    with pytest.raises(RunNotFound):
        await store.log.read(store.owner, f"{store.session_id}.5", 0, 1)
    turn = await store.begin()
    with pytest.raises(RunNotFound):
        await store.log.bounds(store.owner, turn.run_id)


async def test_tool_calls_survive_the_history(store):
    turn = await store.begin()
    call = ToolCall("call_1_0", "order_status", '{"order_id": 1007}')
    messages = [
        Message(Role.USER, "where?"),
        Message(Role.ASSISTANT, "", (call,)),
        Message(Role.TOOL, "{}", tool_call_id="call_1_0"),
        Message(Role.ASSISTANT, "Here."),
    ]
    await store.turns.commit_turn(turn, messages, [b"end"], 1)
    assert list((await store.begin()).history) == messages


ASKED = b'{"run": 1, "expires_ms": 4503599627370496, "state": "open", "remaining": "[12345678901234567,null,3,0]"}'
LEFT = Amounts(12345678901234567, None, 3, 0)
ANSWER = Waiting("answer", 120.0, "SIMPLE", "digest", ASKED)


async def test_a_run_waits_for_an_answer_and_goes_on_with_it(store):
    turn = await store.begin(record=b"asked")
    await store.log.append(store.owner, turn, 1, [b"one"])
    assert await store.log.park(store.owner, turn, 2, [b"asks"], b"so far", ANSWER) is Stop.NO
    assert await store.log.read(store.owner, turn.run_id, 0, 10) == Page((b"one", b"asks"), Standing.WAITING)
    (held,) = await store.log.hold([(store.owner, turn)])
    assert isinstance(held, LeaseLost)
    with pytest.raises(RunNotFound):
        await store.turns.resume_turn(store.session_id, 30.0)
    mallory = Principal(store.owner.tenant, "mallory")
    with pytest.raises(RunNotFound):
        await store.log.respond(mallory, turn.run_id, "digest", "approved", b"yes", any_user=False)
    with pytest.raises(ApprovalInvalid):
        await store.log.respond(store.owner, turn.run_id, "forged", "approved", b"yes", any_user=False)
    for _ in range(3):  # whoever was not told that it was taken asks again
        found = await store.log.respond(mallory, turn.run_id, "digest", "approved", b"yes", any_user=True)
        assert found == Responded(store.owner, LEFT)
    with pytest.raises(RunNotFound):
        await store.log.respond(mallory, turn.run_id, "digest", "approved", b"yes", any_user=False)
    with pytest.raises(ApprovalInvalid):
        await store.log.respond(mallory, turn.run_id, "digest", "denied", b"no", any_user=True)
    with pytest.raises(ApprovalInvalid):
        await store.log.respond(store.owner, turn.run_id, "digest", "approved", b"yes", any_user=False)
    resumed = await store.turns.resume_turn(store.session_id, 30.0)
    assert (resumed.checkpoint, resumed.response, resumed.attempts) == (b"so far", b"yes", 0)
    with pytest.raises(LeaseLost):
        await store.log.append(store.owner, turn, 3, [b"late"])


@pytest.mark.parametrize(("what", "kept"), [("again", b"yes"), ("tool:call_2_0", b"")])
async def test_an_answer_is_kept_for_who_goes_on_until_the_run_waits_for_something_else(store, what, kept):
    turn = await store.begin(record=b"asked")
    await store.log.park(store.owner, turn, 1, [b"asks"], b"so far", ANSWER)
    await store.log.respond(store.owner, turn.run_id, "digest", "approved", b"yes", any_user=False)
    taken = await store.turns.resume_turn(store.session_id, 30.0)
    await store.log.park(store.owner, taken.turn, 2, [], b"so far", Waiting(what, 0.01))
    await asyncio.sleep(0.02)
    assert (await store.turns.resume_turn(store.session_id, 30.0)).response == kept


async def test_a_run_that_is_not_due_says_when_it_is_and_one_that_is_behind_another_does_not(store):
    """A worker's queue has a clock of its own: what is due by that may not be due yet by the session's."""
    first = await store.begin(record=b"asked")
    due_ms = int((time.time() + 20) * 1000)
    for request in (
        Request(store.session_id, "later", queue="SIMPLE", due_ms=due_ms),
        Request(store.session_id, "behind", queue="SIMPLE"),
    ):
        await store.turns.begin_turn(request, b"", 30.0, b"asked")
    assert 0 < await busy(store, 0) <= 30  # when its owner counts as gone
    assert 15 < await busy(store, 2) <= 20
    assert await busy(store, 3) is None
    await store.log.park(store.owner, first, 1, [b"asks"], b"so far", ANSWER)
    assert 15 < await busy(store, 2) <= 20
    assert await busy(store, 3) is None


async def busy(store, run):
    """In how many seconds it may help to ask for a run again."""
    with pytest.raises(SessionBusy) as refused:
        await store.turns.resume_turn(store.session_id, 30.0, run)
    return refused.value.retry_after


async def test_a_run_told_to_stop_does_not_wait_and_one_that_waits_can_be_stopped(store):
    turn = await store.begin(record=b"asked")
    assert await store.log.request_cancel(store.owner, turn.run_id) is Standing.AT_WORK
    assert await store.log.park(store.owner, turn, 1, [b"asks"], b"so far", ANSWER) is Stop.STOP
    await store.turns.abandon_turn(turn, [b"end"], 1)
    turn = await store.begin(record=b"asked")
    await store.log.park(store.owner, turn, 1, [b"asks"], b"so far", Waiting("again", 60.0))
    assert (await store.log.read(store.owner, turn.run_id, 0, 1)).standing is Standing.QUEUED
    assert await store.log.request_cancel(store.owner, turn.run_id) is Standing.WAITING
    resumed = await store.turns.resume_turn(store.session_id, 30.0)
    assert await store.log.append(store.owner, resumed.turn, 2, []) is Stop.STOP


@pytest.mark.parametrize(("concurrency", "told"), [("ENQUEUE", 0), ("INTERRUPT", 1), ("ROLLBACK", 2)])
async def test_a_second_run_tells_the_first_to_stop_as_it_asks(store, concurrency, told):
    turn = await store.begin(record=b"asked")
    request = Request(store.session_id, "and?", concurrency=Concurrency(concurrency))
    waits = await store.turns.begin_turn(request, b"", 30.0, b"second")
    assert (waits.queued, waits.position, waits.fencing_token) == (True, 1, 0)
    assert await store.log.append(store.owner, turn, 1, [b"one"]) == Stop(told)
    assert await store.turns.abandon_turn(turn, [b"end"], 2) == Next(waits.run_id, b"second")


@pytest.mark.parametrize("then", ["INTERRUPT", "CancelRun"])
async def test_a_run_that_was_told_to_leave_no_trace_leaves_none_whoever_else_stops_it(store, then):
    turn = await store.begin(record=b"asked")
    await store.turns.begin_turn(Request(store.session_id, "2", concurrency=Concurrency.ROLLBACK), b"", 30.0, b"2")
    if then == "CancelRun":
        await store.log.request_cancel(store.owner, turn.run_id)
    else:
        await store.turns.begin_turn(Request(store.session_id, "3", concurrency=Concurrency.INTERRUPT), b"", 30.0, b"3")
    assert await store.log.append(store.owner, turn, 1, [b"one"]) is Stop.ROLL_BACK


async def test_a_run_in_the_line_is_shown_and_can_be_ended_there(store):
    turn = await store.begin(record=b"asked")
    second = (await store.turns.begin_turn(Request(store.session_id, "2"), b"", 30.0, b"second")).run_id
    third = (await store.turns.begin_turn(Request(store.session_id, "3"), b"", 30.0, b"third")).run_id
    for begins in (True, False):
        assert await store.log.announce(store.owner, second, [b"one", b"two"]) is begins
    assert await store.log.bounds(store.owner, second) == (b"one", b"two", Standing.QUEUED)
    assert await store.log.request_cancel(store.owner, second) is Standing.QUEUED
    assert await store.log.drop(store.owner, second, 3, [b"end"])
    assert await store.log.drop(store.owner, second, 3, [b"end"]) is None
    assert (await store.log.read(store.owner, second, 0, 9)).standing is Standing.OVER
    assert await store.turns.abandon_turn(turn, [b"end"], 1) == Next(third, b"third")
    assert await store.log.drop(store.owner, turn.run_id, 2, [b"end"]) is None


async def test_a_run_in_the_line_that_is_taken_back_leaves_nothing_and_its_request_begins_another(store):
    turn = await store.begin(record=b"asked")
    asked = Request(store.session_id, "2", "once")
    second = (await store.turns.begin_turn(asked, b"2", 30.0, b"second")).run_id
    third = (await store.turns.begin_turn(Request(store.session_id, "3"), b"", 30.0, b"third")).run_id
    with pytest.raises(RunNotFound):
        await store.log.undo(Principal(store.owner.tenant, "mallory"), second, "once")
    assert (await store.turns.begin_turn(asked, b"2", 30.0, b"second")).attached  # the control
    assert await store.log.undo(store.owner, second, "once")
    assert await store.log.undo(store.owner, second, "once") is None
    for look in (store.log.read(store.owner, second, 0, 9), store.log.bounds(store.owner, second)):
        with pytest.raises(RunNotFound):
            await look
    again = await store.turns.begin_turn(asked, b"2", 30.0, b"second")
    assert (again.queued, again.attached, again.run_id != second) == (True, False, True)
    assert await store.turns.abandon_turn(turn, [b"end"], 1) == Next(third, b"third")
    assert await store.log.undo(store.owner, turn.run_id, "") is None


async def test_a_run_in_the_line_whose_log_has_begun_is_not_taken_back(store):
    await store.begin(record=b"asked")
    asked = Request(store.session_id, "2", "once")
    second = (await store.turns.begin_turn(asked, b"2", 30.0, b"second")).run_id
    await store.log.announce(store.owner, second, [b"one"])
    assert await store.log.undo(store.owner, second, "once") is None
    assert (await store.turns.begin_turn(asked, b"2", 30.0, b"second")).run_id == second
    assert await store.log.bounds(store.owner, second) == (b"one", b"one", Standing.QUEUED)


async def test_who_waits_behind_a_run_that_is_taken_back_is_next(store):
    act_as(store.owner)
    first, second = [
        (await store.turns.begin_turn(Request(store.session_id, text, queue="SIMPLE"), b"", 30.0, b"asked")).run_id
        for text in "12"
    ]
    assert (await store.log.undo(store.owner, first, "")).next == Next(second, b"asked")


async def test_what_is_dropped_is_what_was_asked_and_when_it_was_due(store):
    act_as(store.owner)
    due_ms = int((time.time() + 3600) * 1000)
    asked = Request(store.session_id, "2", queue="SIMPLE", due_ms=due_ms)
    later = (await store.turns.begin_turn(asked, b"", 30.0, b"later")).run_id
    assert await store.log.drop(store.owner, later, 1, [b"end"]) == Dropped(b"later", due_ms)


async def test_a_run_that_was_let_go_is_gone_on_with_at_once_and_has_lost_no_owner(store):
    turn = await store.begin(record=b"asked")
    await store.log.let_go(store.owner, turn)
    resumed = await store.turns.resume_turn(store.session_id, 30.0)
    assert (resumed.turn.run_id, resumed.attempts) == (turn.run_id, 0)


async def test_what_is_due_later_is_read_with_its_time_and_by_its_owner_alone(store):
    act_as(store.owner)
    assert await store.log.later(store.owner, store.session_id) == []
    due_ms = int((time.time() + 3600) * 1000)
    asked = Request(store.session_id, "2", queue="SIMPLE", due_ms=due_ms)
    later = (await store.turns.begin_turn(asked, b"", 30.0, b"later")).run_id
    await store.turns.begin_turn(Request(store.session_id, "3", queue="SIMPLE"), b"", 30.0, b"now")
    assert await store.log.later(store.owner, store.session_id) == [(Next(later, b"later"), due_ms)]
    with pytest.raises(SessionNotFound):
        await store.log.later(Principal(store.owner.tenant, "mallory"), store.session_id)
