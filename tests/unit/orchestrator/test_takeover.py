"""A process that dies at any moment: another goes on from the last checkpoint, and the client sees one whole run."""

import asyncio
import contextlib

import pytest

from services.kit.call import Principal
from services.kit.errors import LeaseLost, RunNotFound, SessionBusy, StoreUnavailable
from services.orchestrator.adapters.inmemory_owners import InMemoryOwners
from services.orchestrator.adapters.inmemory_services import InMemoryModel
from services.orchestrator.config import Config
from services.orchestrator.core import finishing, takeover
from services.orchestrator.core.holding import Holding
from services.orchestrator.domain.agent import Role, Tool, ToolCall
from services.orchestrator.domain.run import Concurrency, Request
from services.orchestrator.domain.turn import Chunk
from tests.support.events import counted
from tests.support.orchestrator import ALICE, EVE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

LEASE_S = 0.2
ANSWER = "Let me look. It is here."
FIRST = ["Let me ", "look. ", Chunk(tool_calls=(ToolCall("any", "find", "{}"),))]
SECOND = ["It is ", 0.06, "here."]
TOOL = Tool("find", "Finds it.", {"type": "object"}, 5.0)


class Thoughtful(InMemoryModel):
    """Asks for the tool first, and answers when it has its result."""

    async def chat(self, model, messages, *rest):
        self.scripts = [SECOND if messages[-1].role is Role.TOOL else FIRST]
        async for chunk in super().chat(model, messages, *rest):
            yield chunk


class Dying:
    """The store as a process sees it that dies at its nth write, just before it or just after."""

    def __init__(self, store, writes, *, after):
        self._store, self._left, self._after = store, writes, after
        self.dead, self._buried = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name):
        method = getattr(self._store, name)
        if name not in ("append", "commit_turn", "abandon_turn"):
            return method

        async def write(*arguments):
            self._left -= 1
            if self._left > 0:
                return await method(*arguments)
            if self._left == 0 and self._after:
                await method(*arguments)
            self.dead.set()
            await self._buried.wait()
            raise LeaseLost("this process is dead")

        return write

    def bury(self):
        self._buried.set()


@pytest.fixture
async def b():
    async with bench() as made:
        made.model = Thoughtful()
        made.tools.results["find"] = ('{"found": true}', False)
        made.agent_is(tools={"find": TOOL}, model_chooses_tools=True)
        made.runs = made.another()
        yield made


async def logged(b, run_id):
    """Returns when the run's log has an entry."""
    for _ in range(400):
        if b.store._run(ALICE, run_id).entries:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("nothing was logged")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("writes", range(1, 5))
async def test_a_run_whose_process_dies_at_any_write_ends_as_the_undisturbed_one(b, writes, after):
    store = b.store
    b.store = dying = Dying(store, writes, after=after)
    doomed, b.store = b.another(), store
    act_as(ALICE)
    run_id = await doomed.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    await asyncio.wait_for(dying.dead.wait(), 5)
    store._run(ALICE, run_id).lease_ends = 0.0

    try:
        await b.runs.resume(Principal(ALICE.tenant, ALICE.user), SESSION)
    except RunNotFound:
        assert (writes, after) == (4, True)  # it died with its work done
    events = await b.events(run_id)

    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].completed.answer == counted(events) == ANSWER
    assert len(b.tools.calls) == 1
    assert kinds(events).count("tool_started") == kinds(events).count("tool_finished") == 1
    said = [(message.role, message.content) for message in store.history(ALICE, SESSION)]
    assert said == [
        (Role.USER, "hello"),
        (Role.ASSISTANT, ""),
        (Role.TOOL, '{"found": true}'),
        (Role.ASSISTANT, ANSWER),
    ]
    dying.bury()
    await doomed.close()


async def test_the_model_is_not_asked_again_for_what_it_has_said(b):
    store = b.store
    b.store = dying = Dying(store, 3, after=True)  # the third write shows the answer's second half begin
    doomed, b.store = b.another(), store
    act_as(ALICE)
    run_id = await doomed.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    await asyncio.wait_for(dying.dead.wait(), 5)
    store._run(ALICE, run_id).lease_ends = 0.0
    asked = len(b.model.asked)
    await b.runs.resume(ALICE, SESSION)
    await b.events(run_id)
    assert all(messages[-1].role is Role.TOOL for messages in b.model.asked[asked:])
    dying.bury()
    await doomed.close()


class Late:
    """The memory of a process that dies while its turn's end is on the way; or that is only slow."""

    def __init__(self, store):
        self._store, self.asked, self.goes_on = store, asyncio.Event(), asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def commit_turn(self, *arguments):
        self.asked.set()
        await self.goes_on.wait()
        return await self._store.commit_turn(*arguments)


@pytest.mark.parametrize("script", [["All of it."], ["All ", "of it."], ["All ", 0.03, "of it."]], ids=len)
@pytest.mark.parametrize("kept", [True, False], ids=["guarded", "control"])
async def test_the_model_is_not_asked_again_for_an_answer_that_is_whole(b, monkeypatch, script, kept):
    monkeypatch.setattr(finishing, "_LATE_S", 0.01 if kept else 60.0)
    b.model = InMemoryModel([script])
    late = Late(b.store)
    doomed, other = b.another(memory=late), b.another()
    act_as(ALICE)
    run_id = await doomed.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    await asyncio.wait_for(late.asked.wait(), 1)
    await asyncio.sleep(0.05)
    doomed._driver._holding.close()
    b.store._run(ALICE, run_id).lease_ends = 0.0
    await other.resume(ALICE, SESSION)
    events = await asyncio.wait_for(b.events(run_id, runs=other), 1)
    assert len(b.model.asked) == (1 if kept else 2)
    assert ("restarted" in kinds(events)) != kept
    assert events[-1].completed.answer == counted(events) == "All of it."
    assert events[-1].completed.usage.model_calls == 1
    late.goes_on.set()
    for each in (doomed, other):
        await each.close()


async def test_an_answer_whose_end_was_on_its_way_is_said_anew_and_counted_once(b):
    b.model, late = InMemoryModel([["All ", 0.03, "of it."]]), Late(b.store)
    doomed, other = b.another(memory=late), b.another()
    act_as(ALICE)
    run_id = await doomed.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    await asyncio.wait_for(late.asked.wait(), 1)
    doomed._driver._holding.close()
    b.store._run(ALICE, run_id).lease_ends = 0.0
    await other.resume(ALICE, SESSION)
    events = await asyncio.wait_for(b.events(run_id, runs=other), 1)
    assert len(b.model.asked) == 2  # tokens are spent twice, of which the first are in no count
    assert b.store.spent[run_id].tokens == 15
    assert counted(events) == events[-1].completed.answer == "All of it."
    assert [(message.role, message.content) for message in b.store.history(ALICE, SESSION)] == [
        (Role.USER, "hello"),
        (Role.ASSISTANT, "All of it."),
    ]
    late.goes_on.set()
    for each in (doomed, other):
        await each.close()


async def test_an_end_that_is_late_is_written_as_any_other(b, monkeypatch):
    monkeypatch.setattr(finishing, "_LATE_S", 0.01)
    b.model, late = InMemoryModel([["All ", "of it."]]), Late(b.store)
    runs = b.another(memory=late)
    act_as(ALICE)
    run_id = await runs.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    await asyncio.wait_for(late.asked.wait(), 1)
    await asyncio.sleep(0.05)
    late.goes_on.set()
    events = await asyncio.wait_for(b.events(run_id, runs=runs), 1)
    assert kinds(events) == ["started", "routed", "text_delta", "text_delta", "completed"]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert await b.events(run_id) == events
    await runs.close()


async def orphaned(b, process, session=SESSION):
    """A run that speaks, whose lease is over though its process lives: its id."""
    act_as(ALICE)
    run_id = await process.begin(ALICE, Request(session, "hello"), lambda run_id: None)
    await logged(b, run_id)
    process._driver._holding.close()
    b.store._run(ALICE, run_id).lease_ends = 0.0
    return run_id


async def test_a_process_that_was_only_slow_cannot_write_any_more(b):
    b.model = InMemoryModel([["on ", 60.0]])
    slow, other = b.another(), b.another()
    run_id = await orphaned(b, slow)
    b.model.scripts = [["All of it."]]
    await other.resume(ALICE, SESSION)
    events = await b.events(run_id, runs=other)
    assert counted(events) == events[-1].completed.answer == "All of it."
    with pytest.raises(LeaseLost):
        await slow._driver.live[ALICE.tenant, run_id].append()
    await slow.close()
    await other.close()


async def test_a_run_at_work_is_not_taken_over(b):
    b.model.scripts = [["on ", 60.0]]
    b.model = InMemoryModel([["on ", 60.0]])
    b.runs = b.another()
    await b.begin()
    act_as(ALICE)
    with pytest.raises(SessionBusy):
        await b.another().resume(ALICE, SESSION)


@pytest.mark.parametrize("renews", [True, False], ids=["guarded", "control"])
async def test_a_run_whose_model_is_silent_keeps_its_session_beyond_the_first_lease(monkeypatch, renews):
    if not renews:
        monkeypatch.setattr(Holding, "wake", lambda holding: None)
    async with bench(config=Config(lease_s=LEASE_S, coalesce_s=0.01), lease_s=LEASE_S) as b:
        b.model.scripts = [["on ", 60.0]]
        run_id = await b.begin()
        await logged(b, run_id)
        await asyncio.sleep(2 * LEASE_S)
        other = b.another()
        with pytest.raises(SessionBusy) if renews else contextlib.nullcontext():
            await other.resume(ALICE, SESSION)
        await other.close()


async def test_a_run_that_processes_are_lost_to_fails_in_the_end(b):
    b.model = InMemoryModel([["on ", 60.0]])
    runs = b.another(Config(coalesce_s=0.02, heartbeat_s=0.05, end_s=1.0, max_takeovers=2))
    act_as(ALICE)
    run_id = await runs.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    others = []
    for _ in range(3):
        await logged(b, run_id)
        b.store._run(ALICE, run_id).lease_ends = 0.0
        others.append(b.another(Config(coalesce_s=0.02, heartbeat_s=0.05, end_s=1.0, max_takeovers=2)))
        await others[-1].resume(ALICE, SESSION)
    events = await b.events(run_id)
    assert "lost 3 times" in events[-1].failed.error.message
    for each in (runs, *others):
        await each.close()


@pytest.mark.parametrize("known", [False, True], ids=["anothers", "also its own"])
async def test_the_sessions_of_a_process_that_is_gone_are_taken_over(b, known):
    store = b.store
    b.store = dying = Dying(store, 2, after=True)
    doomed, b.store = b.another(), store
    act_as(ALICE)
    run_id = await doomed.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    await asyncio.wait_for(dying.dead.wait(), 5)
    store._run(ALICE, run_id).lease_ends = 0.0
    if known:  # it accepted the run, and another worked on it
        await b.runs._takeover.hold(ALICE, SESSION)
    b.gone.add(doomed._takeover._owners._me)
    b.runs.start()
    events = await asyncio.wait_for(b.events(run_id), 5)
    assert counted(events) == events[-1].completed.answer == ANSWER
    dying.bury()
    await doomed.close()


async def test_nobody_takes_over_anothers_session(b):
    b.store.add_session(EVE, "hers", "aura")
    act_as(ALICE)
    with pytest.raises(Exception, match="no such session"):
        await b.runs.resume(ALICE, "hers")


async def test_a_run_whose_agent_is_gone_fails_and_frees_its_session(b):
    b.model = InMemoryModel([["on ", 60.0]])
    doomed, other = b.another(), b.another()
    run_id = await orphaned(b, doomed)
    b.agents._revisions.clear()
    await other.resume(ALICE, SESSION)
    assert (await b.events(run_id))[-1].failed.error.code == 5
    b.model.scripts = [["hello"]]
    await other.begin(ALICE, Request(SESSION, "hello again"), lambda run_id: None)
    for each in (doomed, other):
        await each.close()


async def test_who_finds_a_session_held_up_by_a_dead_run_takes_it_over(b):
    b.model = InMemoryModel([["on ", 60.0]])
    doomed, other = b.another(), b.another()
    run_id = await orphaned(b, doomed)
    b.model.scripts = [["All of it."]]
    with pytest.raises(SessionBusy):
        reject = Request(SESSION, "and?", concurrency=Concurrency.REJECT)
        await other.begin(ALICE, reject, lambda run_id: None)
    events = await asyncio.wait_for(b.events(run_id, runs=other), 5)
    assert events[-1].completed.answer == "All of it."
    for each in (doomed, other):
        await each.close()


async def test_a_process_that_stood_still_says_anew_where_it_works_and_is_patient_with_others(b, monkeypatch):
    monkeypatch.setattr(takeover, "BEAT_S", 0.05)
    b.model = InMemoryModel([["on ", 60.0]])
    runs, gone = b.another(), b.another()
    act_as(ALICE)
    await runs.begin(ALICE, Request(SESSION, "hello"), lambda run_id: None)
    b.store.add_session(ALICE, "other", "aura")
    orphan = await gone.begin(ALICE, Request("other", "hello"), lambda run_id: None)
    await logged(b, orphan)
    gone._driver._holding.close()
    owners = runs._takeover._owners
    runs.start()
    await asyncio.sleep(0.08)
    beat, away = owners.beat, asyncio.get_running_loop().time() + 0.3

    async def late_beat():
        if asyncio.get_running_loop().time() < away:
            raise StoreUnavailable("the store does not answer")
        return await beat()

    owners.beat, runs._takeover._owner_s = late_beat, 0.4
    b.owners[owners._me].clear()  # another has taken it meanwhile
    b.gone.add(gone._takeover._owners._me)
    b.store._run(ALICE, orphan).lease_ends = 0.0
    await asyncio.sleep(0.5)
    assert await owners.mine() == [(ALICE, SESSION)]
    await asyncio.sleep(0.5)
    assert sorted(session for _, session in await owners.mine()) == ["other", SESSION]
    for each in (runs, gone):
        await each.close()


async def test_what_is_not_taken_over_for_long_is_tried_again_later(b, monkeypatch):
    monkeypatch.setattr(takeover, "BEAT_S", 0.01)
    monkeypatch.setattr(takeover, "_TRIES", 3)
    tries = []

    async def failing(principal, session_id):
        tries.append(session_id)
        raise StoreUnavailable("not now")

    owners = InMemoryOwners({}, set(), "me")
    looking = takeover.Takeover(owners, failing, list, 0.1)
    await owners.hold(ALICE, SESSION)
    monkeypatch.setattr(takeover, "_LOOK_BEATS", 5)
    looking.start()
    await asyncio.sleep(0.3)
    assert len(tries) > 3
    await looking.stop()


async def test_a_session_of_the_gone_is_gone_on_with_though_a_callback_of_it_waits_here(monkeypatch):
    monkeypatch.setattr(takeover, "BEAT_S", 0.01)
    monkeypatch.setattr(takeover, "_IDLE_S", 0.0)
    resumed, shared, gone = [], {}, {"dead"}

    async def resume(principal, session_id):
        resumed.append(session_id)

    me, dead = (InMemoryOwners(shared, gone, name) for name in ("me", "dead"))
    for each in (me, dead):
        await each.hold(ALICE, SESSION)
    looking = takeover.Takeover(me, resume, list, 0.1, kept=lambda: [(ALICE, SESSION)])
    await looking.hold(ALICE, SESSION)
    looking.start()
    await asyncio.sleep(0.1)
    assert resumed[:1] == [SESSION]
    assert [session for _, session in await me.mine()] == [SESSION]
    await looking.stop()


async def test_a_session_that_cannot_be_gone_on_with_for_long_is_not_given_back_meanwhile(b, monkeypatch):
    monkeypatch.setattr(takeover, "BEAT_S", 0.01)
    monkeypatch.setattr(takeover, "_IDLE_S", 0.05)
    monkeypatch.setattr(takeover, "_TRIES", 20)
    monkeypatch.setattr(takeover, "_LOOK_BEATS", 5)
    tries, away = [], True

    async def resume(principal, session_id):
        tries.append(session_id)
        if away:
            raise StoreUnavailable("not now")

    shared, gone = {}, {"dead"}
    me, dead = (InMemoryOwners(shared, gone, name) for name in ("me", "dead"))
    await dead.hold(ALICE, SESSION)
    looking = takeover.Takeover(me, resume, list, 0.1)
    looking.start()
    await until(lambda: len(tries) > 15)
    assert [session for _, session in await me.mine()] == [SESSION]
    await until(lambda: len(tries) > 30)
    away = False
    failed = len(tries)
    await until(lambda: len(tries) > failed)
    await until(lambda: not shared["me"])  # it had ended
    await looking.stop()


async def test_a_session_that_is_used_while_it_is_given_back_stays_held(b, monkeypatch):
    monkeypatch.setattr(takeover, "_IDLE_S", 0.0)
    owners = InMemoryOwners({}, set(), "me")
    release, slow = owners.release, asyncio.Event()

    async def slowly(sessions):
        await slow.wait()
        await release(sessions)

    owners.release = slowly
    holding = takeover.Takeover(owners, None, list, 3.0)
    await holding.hold(ALICE, SESSION)
    giving = asyncio.create_task(holding._give_back())
    await asyncio.sleep(0.01)
    used = asyncio.create_task(holding.hold(ALICE, SESSION))
    await asyncio.sleep(0.01)
    slow.set()
    await asyncio.gather(giving, used)
    assert await owners.mine() == [(ALICE, SESSION)]


@pytest.mark.parametrize("known", [False, True], ids=["anothers", "also its own"])
async def test_one_lost_reply_of_the_store_loses_no_run(b, monkeypatch, known):
    monkeypatch.setattr(takeover, "BEAT_S", 0.05)
    b.model = InMemoryModel([["on ", 60.0]])
    doomed, other = b.another(), b.another()
    runs = []
    for number in range(30):
        b.store.add_session(ALICE, f"t{number}", "aura")
        act_as(ALICE)
        runs.append(await doomed.begin(ALICE, Request(f"t{number}", "hello"), lambda run_id: None))
        if known:
            await other._takeover.hold(ALICE, f"t{number}")
    doomed._driver._holding.close()
    for run_id in runs:
        await logged(b, run_id)
        b.store._run(ALICE, run_id).lease_ends = 0.0
    owners, take = other._takeover._owners, other._takeover._owners.take
    resume, failures = b.store.resume_turn, [StoreUnavailable("gone") for _ in range(10)]

    async def reply_lost(gone):
        await take(gone)
        owners.take = take
        raise StoreUnavailable("the reply was lost")

    async def failing(*arguments):
        if failures:
            raise failures.pop()
        return await resume(*arguments)

    owners.take, b.store.resume_turn = reply_lost, failing
    b.gone.add(doomed._takeover._owners._me)
    b.model.scripts = [["All of it."]]
    other.start()
    ends = await asyncio.wait_for(asyncio.gather(*(b.events(run_id, runs=other) for run_id in runs)), 10)
    assert [events[-1].completed.answer for events in ends] == ["All of it."] * 30
    for each in (doomed, other):
        await each.close()
