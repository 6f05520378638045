"""A process that is told to stop in the middle of tool calls."""

import asyncio

import pytest

from myriad.orchestrator.v1 import run_event_pb2
from services.kit.errors import ServiceUnavailable
from services.orchestrator.config import Config
from services.orchestrator.domain.agent import SideEffect, Tool
from services.orchestrator.domain.run import Answer
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

OBJECT = {"type": "object"}
NEVER_S = 60.0


class Slow:
    """A tool that answers when it is told to."""

    def __init__(self, tools):
        self._tools, self._execute, self.answers = tools, tools.execute, asyncio.Event()
        self.calls = self.cut = 0

    async def __call__(self, *arguments):
        self.calls += 1
        try:
            result = await self._execute(*arguments)
            await self.answers.wait()
        except asyncio.CancelledError:
            self.cut += 1
            self._tools._kept.clear()  # it has paid, and nobody knows
            raise
        return result


@pytest.fixture
async def b(request):
    drain_s = getattr(request, "param", NEVER_S)
    async with bench(config=Config(coalesce_s=0.01, end_s=1.0, drain_tool_s=drain_s)) as made:
        made.agent_is(
            model_chooses_tools=True,
            tools={
                "refund": Tool("refund", "Pays back.", OBJECT, 30.0, SideEffect.SIDE_EFFECT),
                "look": Tool("look", "Looks.", OBJECT, 30.0),
            },
        )
        made.tools.results = {"refund": ('{"paid": true}', False), "look": ("{}", False)}
        made.tools.execute = made.tool = Slow(made.tools)
        yield made
        made.tool.answers.set()


async def paying(b):
    """A run in the middle of a call that a person has approved: its id, and how many events it had by then."""
    b.model.scripts = [[b.calls("refund"), b.calls("look")], ["It is paid."]]
    run_id = await b.begin("please")
    events = await b.events(run_id)
    token = events[-1].approval_required.approval_token
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token, Answer(approved=True))
    await until(lambda: b.tool.calls)
    return run_id, len(events)


@pytest.mark.parametrize(
    ("b", "is_cut"), [(NEVER_S, False), (0.05, True)], indirect=["b"], ids=["guarded", "control: it takes too long"]
)
async def test_a_tool_call_under_way_ends_and_its_run_goes_on_elsewhere_with_the_result(b, is_cut):
    run_id, seen = await paying(b)
    closing = asyncio.create_task(b.runs.close())
    await asyncio.wait({closing}, timeout=1.0 if is_cut else 0.1)
    assert closing.done() == is_cut
    b.tool.answers.set()
    await asyncio.wait_for(closing, 1)
    other = b.another()
    act_as(ALICE)
    await other.resume(ALICE, SESSION)
    rest = await asyncio.wait_for(b.events(run_id, seen, runs=other), 1)
    if is_cut:
        assert (b.tool.cut, kinds(rest)[-1]) == (1, "approval_required")
        assert rest[-1].approval_required.reason == run_event_pb2.APPROVAL_REASON_OUTCOME_UNKNOWN
    else:
        assert kinds(rest)[-1] == "completed"
        assert rest[1].tool_finished.result_json == '{"paid": true}'
        assert [event.sequence for event in rest] == list(range(seen + 1, seen + 1 + len(rest)))
        assert [call.tool for call, _, _ in b.tools.calls] == ["refund", "look"]
    await other.close()


async def test_no_further_call_is_begun_by_a_process_that_stops(b):
    await paying(b)
    closing = asyncio.create_task(b.runs.close())
    await asyncio.sleep(0.02)
    b.tool.answers.set()
    await asyncio.wait_for(closing, 1)
    assert (b.tool.calls, len(b.model.asked)) == (1, 1)


async def test_who_watches_is_told_at_once_to_go_on_elsewhere(b):
    run_id, seen = await paying(b)
    watching = asyncio.create_task(b.events(run_id, seen))
    await asyncio.sleep(0)
    closing = asyncio.create_task(b.runs.close())
    with pytest.raises(ServiceUnavailable, match="elsewhere"):
        await asyncio.wait_for(watching, 1)
    assert not closing.done()
    b.tool.answers.set()
    await closing


async def test_a_run_that_is_told_to_stop_meanwhile_does_not_wait_for_its_tool(b):
    b.runs.start()
    run_id, _ = await paying(b)
    closing = asyncio.create_task(b.runs.close())
    await asyncio.sleep(0.02)
    await b.another().cancel(ALICE, run_id)
    await asyncio.wait_for(closing, 1)
    assert b.tool.cut == 1
    other = b.another()
    act_as(ALICE)
    if not b.store._run(ALICE, run_id).over:
        await other.resume(ALICE, SESSION)
    assert kinds(await asyncio.wait_for(b.events(run_id, runs=other), 1))[-1] == "cancelled"
    await other.close()


async def test_a_run_whose_model_speaks_is_handed_over_at_once_whatever_others_wait_for(b):
    await paying(b)
    b.store.add_session(ALICE, "s2", "aura")
    b.model.scripts = [["on ", NEVER_S]]
    speaking = await b.begin(session="s2")
    await until(lambda: len(b.model.asked) == 2)
    closing = asyncio.create_task(b.runs.close())
    await until(lambda: b.store._run(ALICE, speaking).handed)
    assert not closing.done()
    b.tool.answers.set()
    await closing
