"""What a run needs is away for a moment, or has lost something: the run goes on, or says that it cannot."""

import pytest

from myriad.orchestrator.v1 import run_event_pb2
from services.kit.errors import CheckpointBroken, DeadlineExceeded, ServiceUnavailable, StoreUnavailable, ToolTimeout
from services.orchestrator.adapters.inmemory_services import InMemoryModel
from services.orchestrator.checkpoint import read_progress, read_record, write_progress, write_record
from services.orchestrator.config import Config
from services.orchestrator.core import calling, patience
from services.orchestrator.domain.agent import Message, Role, SideEffect, Tool, ToolCall
from services.orchestrator.domain.run import Record
from services.orchestrator.domain.turn import Chunk, Progress
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, deltas, kinds
from tests.support.waiting import until

ORDER = Tool("order", "Orders.", {"type": "object"}, 1.0, SideEffect.IDEMPOTENT)
LOOK = Tool("look", "Looks.", {"type": "object"}, 1.0)
CALL = [Chunk(tool_calls=(ToolCall("any", "order", "{}"), ToolCall("any", "look", "{}")))]
RECORD = Record("Order one.", "aura", 3, ("user",))
PROGRESS = Progress(sequence=2, begun=True, step=1, said="One", messages=(Message(Role.USER, "two"),))


@pytest.fixture
async def b(monkeypatch):
    for module in (patience, calling):
        monkeypatch.setattr(module, "_RETRY_S", 0.005)
    async with bench(config=Config(coalesce_s=0.01, end_s=1.0)) as made:
        yield made


class Away:
    """A method that fails so many times, then works."""

    def __init__(self, method, error, times):
        self._method, self._error, self.left = method, error, times

    async def __call__(self, *arguments, **named):
        if self.left > 0:
            self.left -= 1
            raise self._error
        return await self._method(*arguments, **named)


async def test_a_run_waits_for_a_store_that_is_away_for_a_moment(b):
    b.model.scripts = [["one ", "two"]]
    b.store.append = away = Away(b.store.append, StoreUnavailable("it does not answer"), 5)
    events = await b.turn()
    assert away.left == 0
    assert events[-1].completed.answer == deltas(events) == "one two"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_control_a_run_does_not_wait_for_a_store_for_ever(b, monkeypatch):
    monkeypatch.setattr(patience, "_AWAY_S", 0.02)
    b.store.append = Away(b.store.append, StoreUnavailable("it does not answer"), 10_000)
    assert kinds(await b.turn())[-1] == "failed"


@pytest.mark.parametrize("kept", [0, 1, 2])
async def test_a_store_that_has_lost_the_end_of_a_log_gets_it_anew(b, kept):
    b.model.scripts = [["one ", 0.1, "two ", 0.1, "three"]]
    run_id = await b.begin()
    entries = b.store._run(ALICE, run_id).entries
    await until(lambda: len(entries) >= 3)
    before = list(entries)
    del entries[kept:]
    events = await b.events(run_id)
    assert entries[: len(before)] == before
    assert events[-1].completed.answer == deltas(events) == "one two three"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_store_that_has_lost_the_end_of_a_log_just_before_the_turns_end_gets_it_anew(b):
    commit = b.store.commit_turn

    async def after_a_failover(turn, *rest):
        b.store.commit_turn = commit
        del b.store._run(ALICE, turn.run_id).entries[1:]
        return await commit(turn, *rest)

    b.store.commit_turn = after_a_failover
    run_id = await b.begin()
    assert kinds(await b.events(run_id))[-1] == "completed"
    assert [event.sequence for event in await b.events(run_id)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "error", [ServiceUnavailable("gone"), StoreUnavailable("gone"), DeadlineExceeded("gone")], ids=lambda e: e.reason
)
async def test_a_tool_that_may_be_repeated_is_called_again_while_toolexec_is_away_and_no_other_is(b, error):
    b.agent_is(tools={"order": ORDER, "look": LOOK}, model_chooses_tools=True)
    b.tools.results = {"order": ('{"ordered": true}', False), "look": ('{"seen": true}', False)}
    execute, failed = b.tools.execute, []

    async def away(agent, call, run_id, key, *rest):
        if failed.count(call.tool) < 2:
            failed.append(call.tool)
            raise error
        return await execute(agent, call, run_id, key, *rest)

    b.tools.execute = away
    b.model.scripts = [CALL, ["Done."]]
    events = await b.turn()
    ended = {event.tool_finished.tool: event.tool_finished for event in events if event.HasField("tool_finished")}
    assert (ended["order"].reason, ended["order"].result_json) == ("", '{"ordered": true}')
    assert ended["look"].reason == error.reason
    assert failed.count("look") == 1


async def test_a_tool_that_is_slow_itself_is_not_called_again(b):
    b.agent_is(tools={"order": ORDER}, model_chooses_tools=True)
    b.tools.results = {"order": ToolTimeout("it took longer")}
    b.model.scripts = [[Chunk(tool_calls=(ToolCall("any", "order", "{}"),))], ["Done."]]
    await b.turn()
    assert len(b.tools.calls) == 1


@pytest.mark.parametrize(
    ("write", "read", "value"), [(write_record, read_record, RECORD), (write_progress, read_progress, PROGRESS)]
)
def test_one_wrong_bit_anywhere_is_found(write, read, value):
    kept = write(value)
    assert read(kept) == value
    for place in range(len(kept)):
        for bit in range(8):
            broken = bytearray(kept)
            broken[place] ^= 1 << bit
            with pytest.raises(CheckpointBroken):
                read(bytes(broken))
    for length in range(1, len(kept)):
        with pytest.raises(CheckpointBroken):
            read(kept[:length])


@pytest.mark.parametrize("what", ["checkpoint", "record"])
async def test_a_run_of_which_something_is_damaged_fails_and_frees_its_session(b, what):
    b.model = InMemoryModel([["on ", 60.0]])
    doomed, other = b.another(), b.another()
    b.runs = doomed
    run_id = await b.begin()
    run = b.store._run(ALICE, run_id)
    await until(lambda: "text_delta" in kinds(entries_of(run)))
    doomed._driver._holding.close()
    run.lease_ends = 0.0
    kept = getattr(run, what)
    setattr(run, what, kept[:-1] + bytes([kept[-1] ^ 1]))
    act_as(ALICE)
    await other.resume(ALICE, SESSION)
    events = await b.events(run_id, runs=other)
    assert b"CHECKPOINT_BROKEN" in events[-1].failed.error.SerializeToString()
    assert kinds(events)[-2] == "restarted"
    assert b.store.history(ALICE, SESSION) == []
    b.model.scripts = [["hello"]]
    b.runs = other
    assert kinds(await b.turn())[-1] == "completed"
    for each in (doomed, other):
        await each.close()


def entries_of(run):
    return [run_event_pb2.RunEvent.FromString(entry) for entry in run.entries]
