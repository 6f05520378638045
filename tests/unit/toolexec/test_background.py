"""Tools in the background: begun once, ended once, and their runs told; whatever becomes of the process at work."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from services.kit.call import Call, Principal, current_traceparent, enter
from services.kit.errors import (
    ApprovalInvalid,
    ApprovalRequired,
    ExecutionNotFound,
    FailedPrecondition,
    InvalidToolArguments,
    QueueFull,
    ServiceUnavailable,
    StoreUnavailable,
    ToolNotAllowed,
    ToolUnavailable,
)
from services.kit.queue import TOOL_QUEUE, Item
from services.toolexec.core import background_work, consumer
from services.toolexec.core.functions import FunctionFailed
from services.toolexec.domain import SideEffect, State
from tests.support.toolexec import ANN, IDLE_S, Process, Shared, a_tool, call_key, execution
from tests.support.waiting import until

STRICT = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}


class World:
    """Processes of one stack, and what their tools did."""

    def __init__(self) -> None:
        self.shared = Shared()
        self.ran: list[str] = []
        self.traces: list[str] = []
        self.cut: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None
        slow = {"background": True, "parameters": STRICT}
        self.shared.add(
            a_tool("report", **slow),
            a_tool("book", SideEffect.IDEMPOTENT, **slow),
            a_tool("pay", SideEffect.SIDE_EFFECT, **slow),
            a_tool("brief", timeout=0.05, **slow),
            a_tool("bosses", roles=frozenset({"boss"}), **slow),
            a_tool("quick"),
        )
        self.shared.runs.park(ANN, "s1.1", "c1")

    def process(self, name: str = "one", **settings) -> Process:
        async def work(_arguments):
            self.ran.append(name)
            self.traces.append(current_traceparent())
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cut.append(name)
                raise
            if self.error is not None:
                raise self.error
            return {"by": name}

        return Process(self.shared, dict.fromkeys(("report", "book", "pay", "brief", "quick"), work), **settings)

    @property
    def told(self) -> dict | None:
        """What the run was told."""
        response = self.shared.runs.told.get(("acme", "s1.1"))
        return None if response is None else json.loads(response)

    async def until_told(self, seconds: float = 3.0) -> dict:
        await until(lambda: self.told is not None, seconds)
        return self.told

    async def state(self, tool: str = "report") -> State:
        return (await self.shared.executions.read(ANN, call_key(tool))).state


@pytest.fixture
def world(monkeypatch) -> World:
    monkeypatch.setattr(background_work, "_FULL_S", 0.05)
    monkeypatch.setattr(consumer, "_AGAIN_S", (0.02, 0.1))
    return World()


async def test_it_begins_at_once_and_its_result_wakes_the_run(world):
    world.hold.clear()
    async with world.process() as process:
        begun = await process.background.start(ANN, execution("report"), "c1")
        assert begun.state is State.RUNNING
        await until(lambda: world.ran)
        assert world.told is None
        world.hold.set()
        assert await world.until_told() == {
            "tool_call_id": "c1",
            "result_json": '{"by":"one"}',
            "is_error": False,
            "reason": "",
        }
    found = await process.background.get(ANN, call_key("report"))
    assert (found.state, found.outcome.result_json) == (State.DONE, '{"by":"one"}')


async def test_it_runs_in_the_trace_of_the_call_that_began_it(world):
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    enter(Call("start", {}, None, "test", traceparent=trace))
    process = world.process()
    await process.background.start(ANN, execution("report"), "c1")
    enter(Call("another", {}, None, "test", traceparent=f"00-{'12' * 16}-{'34' * 8}-01"))
    async with process:
        await world.until_told()
    assert world.traces == [trace]


async def test_what_may_not_run_is_refused_before_it_is_begun(world):
    process = world.process()
    for asked, error in (
        (execution("report", '{"n": "x"}'), InvalidToolArguments),
        (execution("bosses"), ToolNotAllowed),
        (execution("quick"), FailedPrecondition),
        (execution("pay"), ApprovalRequired),
        (execution("pay", approval="0" * 64), ApprovalInvalid),
    ):
        with pytest.raises(error):
            await process.background.start(ANN, asked, "c1")
        with pytest.raises(ExecutionNotFound):
            await process.background.get(ANN, call_key(asked.tool, asked.arguments_json))
    assert (await process.queue.stats(TOOL_QUEUE)).waiting == 0


async def test_a_repeated_start_begins_nothing(world):
    async with world.process() as process:
        await asyncio.gather(*(process.background.start(ANN, execution("report"), "c1") for _ in range(5)))
        await world.until_told()
        again = await process.background.start(ANN, execution("report"), "c1")
    assert again.state is State.DONE
    assert world.ran == ["one"]


async def test_what_was_kept_and_not_queued_is_queued_by_the_repeated_start(world):
    process = world.process()
    put = process.queue.put

    async def full(*_arguments, **_more):
        raise QueueFull("full")

    process.queue.put = full
    with pytest.raises(QueueFull):
        await process.background.start(ANN, execution("report"), "c1")
    process.queue.put = put
    async with process:
        await process.background.start(ANN, execution("report"), "c1")
        await world.until_told()


async def test_the_tools_own_error_is_a_result(world):
    world.error = FunctionFailed("no such year")
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        told = await world.until_told()
    assert (told["result_json"], told["is_error"], told["reason"]) == ('{"error":"no such year"}', True, "")
    assert await world.state() is State.DONE


@pytest.mark.parametrize(
    ("tool", "error", "reason"),
    [
        ("report", ToolUnavailable("nobody there"), "TOOL_UNAVAILABLE"),
        ("report", RuntimeError("a secret of ours"), "INTERNAL"),
        ("brief", None, "TOOL_TIMEOUT"),
    ],
)
async def test_a_failure_is_told_with_its_reason(world, tool, error, reason):
    world.error = error
    if tool == "brief":
        world.hold.clear()
    async with world.process() as process:
        await process.background.start(ANN, execution(tool), "c1")
        told = await world.until_told()
    assert (told["is_error"], told["reason"]) == (True, reason)
    assert "secret" not in told["result_json"]
    found = await world.shared.executions.read(ANN, call_key(tool))
    assert (found.state, found.reason) == (State.FAILED, reason)


async def test_agents_that_cannot_be_had_just_now_are_asked_again(world):
    get = world.shared.source.get
    failures = iter([ServiceUnavailable("memory is away")])

    async def flaky(*arguments):
        error = next(failures, None)
        if error is not None:
            raise error
        return await get(*arguments)

    process = world.process()
    await process.background.start(ANN, execution("report"), "c1")
    world.shared.source.get = flaky
    async with process:
        await world.until_told(5)
    assert world.ran == ["one"]


async def test_a_result_that_comes_before_the_run_waits_is_told_when_it_does(world):
    world.shared.runs.park(ANN, "s1.1", "")
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        await until(lambda: world.ran)
        await asyncio.sleep(0.05)
        assert world.told is None
        world.shared.runs.park(ANN, "s1.1", "c1")
        assert (await world.until_told())["result_json"] == '{"by":"one"}'


async def test_a_run_that_is_over_is_told_nothing_and_the_item_is_done(world):
    world.shared.runs.waiting.clear()
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        await until(lambda: not world.shared.queues.entries)
    assert world.told is None
    assert await world.state() is State.DONE


async def test_a_run_is_told_again_when_the_store_was_away(world):
    wake = world.shared.runs.wake
    failures = iter([StoreUnavailable("away")])

    async def flaky(*arguments):
        error = next(failures, None)
        if error is not None:
            raise error
        await wake(*arguments)

    world.shared.runs.wake = flaky
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        await world.until_told()
    assert world.ran == ["one"]


# Stopping.


@pytest.mark.parametrize("other", [False, True])
async def test_stopping_cuts_the_call_at_once_in_whichever_process_it_runs(world, other):
    world.hold.clear()
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        await until(lambda: world.ran)
        asked = world.process("two") if other else process
        began = asyncio.get_running_loop().time()
        await asked.background.cancel(ANN, call_key("report"))
        await until(lambda: world.cut)
        assert asyncio.get_running_loop().time() - began < 0.5
        told = await world.until_told()
    assert (told["is_error"], told["reason"]) == (True, "EXECUTION_CANCELLED")
    assert await world.state() is State.CANCELLED


async def test_control_a_process_that_does_not_look_goes_on(world, monkeypatch):
    monkeypatch.setattr(background_work, "LOOK_S", 60.0)
    world.hold.clear()
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        await until(lambda: world.ran)
        await world.process("two").background.cancel(ANN, call_key("report"))
        await asyncio.sleep(0.5)
        assert world.cut == []


async def test_stopping_what_waits_in_the_queue_means_it_never_runs(world):
    process = world.process()
    await process.background.start(ANN, execution("report"), "c1")
    await process.background.cancel(ANN, call_key("report"))
    async with process:
        assert (await world.until_told())["reason"] == "EXECUTION_CANCELLED"
    assert world.ran == []


async def test_stopping_what_has_ended_changes_nothing(world):
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        await world.until_told()
        await process.background.cancel(ANN, call_key("report"))
    assert await world.state() is State.DONE


async def test_another_user_stops_nothing(world):
    world.hold.clear()
    async with world.process() as process:
        await process.background.start(ANN, execution("report"), "c1")
        await until(lambda: world.ran)
        with pytest.raises(ExecutionNotFound):
            await process.background.cancel(Principal("acme", "bob"), call_key("report"))
        process.work.stop(Principal("acme", "bob"), call_key("report"))
        world.hold.set()
        assert (await world.until_told())["reason"] == ""


# Processes that die or stop.


@asynccontextmanager
async def one_that_dies(world: World, tool: str, **asked):
    """Another process is there when the one at work is killed."""
    world.hold.clear()
    first = world.process("one")
    for each in first.consumers:
        each.start()
    await first.background.start(ANN, execution(tool, **asked), "c1")
    await until(lambda: world.ran)
    async with world.process("two"):
        first.die()
        world.hold.set()
        yield


@pytest.mark.parametrize("tool", ["report", "book"])
async def test_what_may_be_repeated_is_taken_over_from_a_process_that_died(world, tool):
    began = asyncio.get_running_loop().time()
    async with one_that_dies(world, tool):
        assert (await world.until_told(4 * IDLE_S))["result_json"] == '{"by":"two"}'
        assert asyncio.get_running_loop().time() - began < 3 * IDLE_S
    assert world.ran == ["one", "two"]


async def test_what_has_an_effect_each_time_is_never_begun_again(world):
    token = world.shared.approve(call_key("pay"))
    async with one_that_dies(world, "pay", approval=token):
        told = await world.until_told(4 * IDLE_S)
    assert (told["is_error"], told["reason"]) == (True, "EXECUTION_INTERRUPTED")
    assert world.ran == ["one"]
    with pytest.raises(ApprovalInvalid):
        await world.process().background.start(ANN, execution("pay", run_id="s1.2", approval=token), "c2")


async def test_control_unless_it_is_marked_so(world):
    token = world.shared.approve(call_key("pay"))
    begin = world.shared.executions.begin

    async def unmarked(principal, key, call, approval, wait_for):
        object.__setattr__(call, "once", False)
        return await begin(principal, key, call, approval, wait_for)

    world.shared.executions.begin = unmarked
    async with one_that_dies(world, "pay", approval=token):
        await world.until_told(4 * IDLE_S)
    assert world.ran == ["one", "two"]


async def test_a_process_that_stops_hands_its_calls_over_at_once(world):
    world.hold.clear()
    async with world.process("one") as first:
        await first.background.start(ANN, execution("book"), "c1")
        await until(lambda: world.ran)
    assert world.cut == ["one"]
    world.hold.set()
    began = asyncio.get_running_loop().time()
    async with world.process("two"):
        assert (await world.until_told())["result_json"] == '{"by":"two"}'
    assert asyncio.get_running_loop().time() - began < IDLE_S / 2


async def test_a_process_that_stops_leaves_what_has_an_effect_each_time_unknown(world):
    token = world.shared.approve(call_key("pay"))
    world.hold.clear()
    async with world.process("one") as first:
        await first.background.start(ANN, execution("pay", approval=token), "c1")
        await until(lambda: world.ran)
    async with world.process("two"):
        assert (await world.until_told())["reason"] == "EXECUTION_INTERRUPTED"
    assert world.ran == ["one"]


async def test_a_call_whose_process_is_lost_again_and_again_fails(world):
    await world.process().background.start(ANN, execution("report"), "c1")
    for attempt in range(4):
        await world.shared.executions.take(ANN, call_key("report"), f"lost{attempt}", 4, 60)
    async with world.process():
        assert (await world.until_told())["reason"] == "EXECUTION_INTERRUPTED"
    assert world.ran == []


async def test_a_call_that_outlives_the_idle_time_stays_its_processes_own(world):
    world.hold.clear()
    async with world.process("one") as first, world.process("two"):
        await first.background.start(ANN, execution("book"), "c1")
        await until(lambda: world.ran)
        await asyncio.sleep(3 * IDLE_S)
        world.hold.set()
        await world.until_told()
    assert len(world.ran) == 1


async def test_one_slow_tool_leaves_places_for_the_others(world):
    world.hold.clear()
    async with world.process(at_once=4, per_tool=2) as process:
        for n in range(3):
            await process.background.start(ANN, execution("report", json.dumps({"n": n})), f"r{n}")
        await until(lambda: len(world.ran) == 2)
        await process.background.start(ANN, execution("book"), "c1")
        await until(lambda: len(world.ran) == 3)
        await asyncio.sleep(0.05)
        assert len(world.ran) == 3
        world.hold.set()
        await until(lambda: len(world.ran) == 4)


async def test_one_tenant_leaves_places_for_the_others(world):
    world.hold.clear()
    world.shared.source.put("other", world.shared.source._agents["acme", "aura"][3])
    bob = Principal("other", "bob")
    async with world.process(at_once=4, per_tenant=3) as process:
        for n in range(9):
            await process.background.start(ANN, execution("report", json.dumps({"n": n})), f"r{n}")
        await until(lambda: len(world.ran) == 3)
        await process.background.start(bob, execution("book"), "c1")
        await until(lambda: len(world.ran) == 4)
        assert (await world.shared.executions.read(bob, call_key("book"))).state is State.RUNNING
        world.hold.set()
        await until(lambda: len(world.ran) == 10)


async def test_what_was_done_while_the_store_was_away_is_kept_when_it_is_back(world, monkeypatch):
    monkeypatch.setattr(background_work, "_KEEP_AGAIN_S", 0.01)
    token = world.shared.approve(call_key("pay"))
    finish = world.shared.executions.finish
    failures = iter([StoreUnavailable("away")] * 3)

    async def flaky(*arguments):
        error = next(failures, None)
        if error is not None:
            raise error
        return await finish(*arguments)

    world.shared.executions.finish = flaky
    async with world.process() as process:
        await process.background.start(ANN, execution("pay", approval=token), "c1")
        assert (await world.until_told())["reason"] == ""
    assert world.ran == ["one"]
    assert await world.state("pay") is State.DONE


async def test_items_that_are_none_are_kept_for_people_and_harm_nobody(world):
    process = world.process()
    for at, body in enumerate((b"", b"{}", b"[1, 2]", b'["a", "b", "c", "d", "e", "f", 7]', b"\xff")):
        await process.queue.put(TOOL_QUEUE, [Item(f"poison{at}", "acme", body)])
    async with process:
        await process.background.start(ANN, execution("report"), "c1")
        await world.until_told()
        await until(lambda: not world.shared.queues.entries)
    assert sorted(item.id for item in world.shared.queues.dead[TOOL_QUEUE]) == [f"poison{at}" for at in range(5)]
