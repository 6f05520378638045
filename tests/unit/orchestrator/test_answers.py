"""Runs that wait: for a person to approve, for the client, for a slow tool."""

import asyncio

import orjson
import pytest
from google.rpc import code_pb2

from services.kit.amounts import Amounts
from services.kit.call import Principal
from services.kit.errors import (
    ApprovalInvalid,
    DeadlineExceeded,
    Internal,
    RunNotFound,
    ServiceUnavailable,
    ToolNotAllowed,
    ToolTimeout,
    ToolUnavailable,
)
from services.orchestrator.codec import run_of
from services.orchestrator.config import Config
from services.orchestrator.core import calling, takeover
from services.orchestrator.domain.agent import SideEffect, Tool
from services.orchestrator.domain.run import Answer
from tests.support.orchestrator import ALICE, EVE, MALLORY, SESSION, act_as, bench, kinds
from tests.support.waiting import until

YES = Answer(approved=True)
OBJECT = {"type": "object", "required": ["order"]}
QUICK = Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=1.0)
WAITING = 3
OUTCOME_UNKNOWN = 2


@pytest.fixture
async def b():
    async with bench(config=QUICK) as made:
        made.runs.start()
        made.agent_is(
            model_chooses_tools=True,
            tools={
                "refund": Tool("refund", "Pays back.", OBJECT, 5.0, SideEffect.SIDE_EFFECT),
                "transfer": Tool("transfer", "Slow.", OBJECT, 50.0, SideEffect.SIDE_EFFECT, background=True),
                "report": Tool("report", "Takes long.", OBJECT, 50.0, background=True),
                "open_door": Tool("open_door", "At the client.", OBJECT, 5.0, client=True),
            },
        )
        made.tools.results = {"refund": ('{"paid": true}', False)}
        yield made


async def asks(b, tool, arguments='{"order": 1007}', then="done."):
    """A run whose model asks for a tool: its id, and the events until it waits."""
    b.model.scripts = [[b.calls(tool, arguments)], [then]]
    run_id = await b.begin("please")
    return run_id, await ended(b, run_id)


async def ended(b, run_id, runs=None, after=0):
    return await asyncio.wait_for(b.events(run_id, after, runs=runs), 3)


def token(events):
    return next(event.approval_required.approval_token for event in events if event.HasField("approval_required"))


async def state(b, run_id):
    return run_of(*await b.runs.bounds(ALICE, run_id)).state


async def test_a_tool_with_side_effects_waits_for_a_yes_and_runs_once(b):
    run_id, events = await asks(b, "refund")
    assert kinds(events)[-1] == "approval_required"
    assert (await state(b, run_id), b.tools.calls) == (WAITING, [])
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    rest = await ended(b, run_id, after=len(events))
    assert kinds(rest)[:3] + kinds(rest)[-1:] == ["tool_started", "tool_finished", "text_delta", "completed"]
    assert rest[1].tool_finished.result_json == '{"paid": true}'
    assert len(b.tools.calls) == 1
    assert b.model.asked[1][-1].content == '{"paid": true}'


async def test_a_no_is_told_to_the_model(b):
    run_id, events = await asks(b, "refund")
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), Answer(reason="too much"))
    rest = await ended(b, run_id, after=len(events))
    assert rest[0].tool_finished.reason == "APPROVAL_DENIED"
    assert "too much" in b.model.asked[1][-1].content
    assert b.tools.calls == []


async def test_a_token_is_good_once_and_for_whoever_may_answer(b):
    run_id, events = await asks(b, "refund")
    for stranger in (MALLORY, EVE):
        with pytest.raises(RunNotFound):
            await b.runs.respond(stranger, run_id, token(events), YES)
    with pytest.raises(ApprovalInvalid):
        await b.runs.respond(ALICE, run_id, token(events)[:-1], YES)
    approver = Principal(ALICE.tenant, "boss", frozenset({"approver"}))
    act_as(approver)
    await b.runs.respond(approver, run_id, token(events), YES)
    with pytest.raises(ApprovalInvalid):
        await b.runs.respond(ALICE, run_id, token(events), YES)
    assert kinds(await ended(b, run_id))[-1] == "completed"
    assert len(b.tools.calls) == 1


async def test_whoever_was_not_told_that_an_answer_was_taken_gives_it_again(b):
    run_id, events = await asks(b, "refund")
    go_on, b.runs._takeover.go_on = b.runs._takeover.go_on, lambda *session: None
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)  # its process is killed before it goes on
    b.runs._takeover.go_on = go_on
    with pytest.raises(ApprovalInvalid):
        await b.runs.respond(ALICE, run_id, token(events), Answer(reason="no"))
    for _ in range(2):
        assert (await b.runs.respond(ALICE, run_id, token(events), YES)).owner == ALICE
    assert kinds(await ended(b, run_id))[-1] == "completed"
    assert (await b.runs.respond(ALICE, run_id, token(events), YES)).owner == ALICE
    assert len(b.tools.calls) == 1


@pytest.mark.parametrize("known", [True, False], ids=["guarded", "control: nobody knows that it works there"])
async def test_an_answer_whose_process_was_killed_at_once_is_gone_on_with_by_another(b, known):
    run_id, events = await asks(b, "refund")
    doomed = b.another(QUICK)
    doomed._takeover.go_on = lambda *session: None
    for owner in b.owners.values():
        owner.clear()  # whoever worked on it has given the session back since
    if not known:
        doomed._takeover.hold = lambda *session: asyncio.sleep(0)
    act_as(ALICE)
    await doomed.respond(ALICE, run_id, token(events), YES)
    b.gone.add(doomed._takeover._owners._me)
    if known:
        assert kinds(await ended(b, run_id, after=len(events)))[-1] == "completed"
        assert len(b.tools.calls) == 1
    else:
        await asyncio.sleep(3 * takeover.BEAT_S)
        assert b.tools.calls == []
    await doomed.close()


async def test_nobody_invents_the_result_of_a_tool_that_is_not_the_clients(b):
    run_id, events = await asks(b, "refund")
    act_as(ALICE)
    with pytest.raises(ApprovalInvalid):
        await b.runs.respond(ALICE, run_id, token(events), Answer(result_json='{"paid": true}'))
    await b.runs.respond(ALICE, run_id, token(events), YES)
    assert kinds(await ended(b, run_id))[-1] == "completed"
    assert len(b.tools.calls) == 1


async def test_wrong_arguments_are_refused_without_asking_anybody(b):
    _, events = await asks(b, "refund", "{}")
    assert kinds(events)[-1] == "completed"
    assert "approval_required" not in kinds(events)
    assert b.tools.calls == []


async def test_a_run_that_waits_has_said_what_it_spent_and_its_budgets_hear_of_it_at_once(b):
    asked = []
    resume, b.store.resume_turn = b.store.resume_turn, lambda *args: asked.append(args) or resume(*args)
    run_id, _ = await asks(b, "refund")
    await until(lambda: asked)  # which brings it to the budgets
    assert b.store.spent[run_id].tokens > 0
    assert b.store.spent[run_id].tool_calls == 0
    await asyncio.sleep(0.05)
    assert len(asked) == 1


async def test_a_run_that_waited_and_is_not_covered_any_more_fails_and_keeps_what_it_said(b):
    b.model.scripts = [["Let me see. ", b.calls("refund", '{"order": 1007}')], ["never"]]
    run_id = await b.begin("please")
    events = await ended(b, run_id)
    b.store.granted = Amounts(tokens=b.store.spent[run_id].tokens)  # others used all the rest meanwhile
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    failed = (await ended(b, run_id))[-1].failed
    assert failed.error.code == code_pb2.RESOURCE_EXHAUSTED
    assert failed.partial_answer == "Let me see. "
    assert len(b.model.asked) == 1


async def test_an_answer_lets_the_run_go_on_in_another_process_when_its_own_is_gone(b):
    run_id, events = await asks(b, "refund")
    await b.runs.close()
    other = b.another(QUICK)
    act_as(ALICE)
    await other.respond(ALICE, run_id, token(events), YES)
    assert kinds(await ended(b, run_id, runs=other))[-1] == "completed"
    assert len(b.tools.calls) == 1
    await other.close()


@pytest.mark.parametrize("tool", ["refund", "transfer"])
async def test_nobody_answers_in_time(b, tool):
    b.runs = b.another(Config(coalesce_s=0.01, end_s=1.0, answer_s=0.05))
    run_id, events = await asks(b, tool)
    (claimed,) = await b.queue.claim(["SIMPLE"], 1, 2.0)
    await b.queue.done(claimed)
    act_as(ALICE)
    await b.runs.take(ALICE, SESSION, 1)
    rest = await ended(b, run_id, after=len(events))
    assert rest[0].tool_finished.reason == "APPROVAL_EXPIRED"
    assert kinds(rest)[-1] == "completed"
    await b.runs.close()


async def test_a_side_effect_whose_outcome_is_unknown_is_not_repeated_but_asked_about(b):
    execute, died = b.tools.execute, []

    async def dies_once(*args):
        await execute(*args)
        b.tools._kept.clear()  # the effect happened, and nobody knows
        if not died:
            died.append(args)
            raise ServiceUnavailable("toolexec is gone", retry_after=0.01)

    b.tools.execute = dies_once
    run_id, events = await asks(b, "refund")
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    rest = await ended(b, run_id, after=len(events))
    assert kinds(rest) == ["tool_started", "approval_required"]
    assert rest[1].approval_required.reason == 2
    assert len(b.tools.calls) == 1
    b.tools.execute = execute
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(rest), YES)
    assert kinds(await ended(b, run_id))[-1] == "completed"
    assert len(b.tools.calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        ToolTimeout("it took longer than 5 s"),
        ServiceUnavailable("toolexec is gone"),
        DeadlineExceeded("no reply"),
        ToolUnavailable("it broke off its answer"),
        Internal("internal error"),
    ],
    ids=lambda error: error.reason,
)
@pytest.mark.parametrize("tool", ["refund", "transfer"])
async def test_what_may_have_had_its_effect_under_an_approval_is_asked_about_and_not_told_as_an_error(
    b, monkeypatch, tool, error
):
    monkeypatch.setattr(calling, "_AWAY_S", -10.0)
    run_id, events = await asks(b, tool)

    async def gone(*_):
        raise error

    b.tools.execute = b.tools.start = gone
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    rest = await ended(b, run_id, after=len(events))
    assert kinds(rest)[-1] == "approval_required"
    assert rest[-1].approval_required.reason == OUTCOME_UNKNOWN
    assert len(b.model.asked) == 1


@pytest.mark.parametrize("tool", ["refund", "transfer"])
async def test_what_was_refused_under_an_approval_was_not_run_and_is_told(b, tool):
    run_id, events = await asks(b, tool)

    async def refused(*_):
        raise ToolNotAllowed("the caller has none of the roles")

    b.tools.execute = b.tools.start = refused
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    rest = await ended(b, run_id, after=len(events))
    assert rest[1].tool_finished.reason == "TOOL_NOT_ALLOWED"
    assert kinds(rest)[-1] == "completed"


async def test_a_slow_tool_whose_beginning_was_not_heard_of_is_begun_again_and_runs_once(b):
    run_id, events = await asks(b, "transfer")
    start, lost = b.tools.start, []

    async def loses_replies(*args):
        await start(*args)
        if len(lost) < 2:
            lost.append(args)
            raise ServiceUnavailable("toolexec is gone", retry_after=0.01)

    b.tools.start = loses_replies
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    rest = await ended(b, run_id, after=len(events))
    assert (kinds(rest), await state(b, run_id)) == (["tool_started"], WAITING)
    assert (len(lost), len(b.tools.begun)) == (2, 1)


@pytest.mark.parametrize(
    ("tool", "reason", "last"),
    [
        ("transfer", "TOOL_TIMEOUT", "approval_required"),
        ("transfer", "EXECUTION_INTERRUPTED", "approval_required"),
        ("transfer", "TOOL_UNAVAILABLE", "approval_required"),
        ("transfer", "TOOL_NOT_ALLOWED", "completed"),
        ("report", "TOOL_TIMEOUT", "completed"),
    ],
)
async def test_a_slow_tool_that_was_cut_is_asked_about_where_it_may_have_had_its_effect(b, tool, reason, last):
    run_id, events = await asks(b, tool)
    if tool == "transfer":
        act_as(ALICE)
        await b.runs.respond(ALICE, run_id, token(events), YES)
        events += await ended(b, run_id, after=len(events))
    call = events[-1].tool_started.call.tool_call_id
    b.store.wake(ALICE, run_id, orjson.dumps({"tool_call_id": call, "reason": reason}))
    act_as(ALICE)
    await b.runs.take(ALICE, SESSION, 1)
    assert kinds(await ended(b, run_id, after=len(events)))[-1] == last


@pytest.mark.parametrize(("tool", "last"), [("transfer", "approval_required"), ("report", "completed")])
async def test_a_slow_tool_that_is_not_heard_of_in_time_is_asked_about_where_it_may_have_had_its_effect(
    b, monkeypatch, tool, last
):
    monkeypatch.setattr(calling, "_AWAY_S", -49.9)  # it may take 50 s
    run_id, events = await asks(b, tool)
    if tool == "transfer":
        act_as(ALICE)
        await b.runs.respond(ALICE, run_id, token(events), YES)
        events += await ended(b, run_id, after=len(events))
    await asyncio.sleep(0.15)
    act_as(ALICE)
    await b.runs.take(ALICE, SESSION, 1)
    rest = await ended(b, run_id, after=len(events))
    assert kinds(rest)[-1] == last
    assert b.tools.ended == b.tools.begun


async def test_the_client_runs_a_tool_and_says_what_came_of_it(b):
    run_id, events = await asks(b, "open_door")
    assert events[-1].approval_required.reason == 3
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), Answer(result_json='{"open": true}'))
    rest = await ended(b, run_id, after=len(events))
    assert rest[0].tool_finished.result_json == '{"open": true}'
    assert b.model.asked[1][-1].content == '{"open": true}'


async def test_a_slow_tool_holds_no_process_and_its_result_wakes_the_run(b):
    run_id, events = await asks(b, "report")
    assert events[-1].tool_started.background
    assert await state(b, run_id) == WAITING
    await until(lambda: not b.runs._driver.live)
    call = events[-1].tool_started.call.tool_call_id
    b.store.wake(ALICE, run_id, orjson.dumps({"tool_call_id": call, "result_json": '{"pages": 3}'}))
    act_as(ALICE)
    await b.runs.take(ALICE, SESSION, 1)
    rest = await ended(b, run_id, after=len(events))
    assert rest[0].tool_finished.result_json == '{"pages": 3}'
    assert len(b.tools.begun) == 1


@pytest.mark.parametrize("tool", ["refund", "report"])
async def test_a_worker_goes_on_with_the_answer_that_a_process_without_its_class_was_given(b, tool):
    worker = b.another(QUICK, classes=("SIMPLE",))
    b.model.scripts = [[b.calls(tool, '{"order": 1007}')], ["done."]]
    run_id = await b.begin("please", queue="SIMPLE")
    act_as(ALICE)
    await worker.take(ALICE, SESSION, 1)
    events = await ended(b, run_id)
    await until(lambda: not worker._takeover._resuming)  # it looks after what waits, once
    act_as(ALICE)
    if tool == "refund":
        await b.runs.respond(ALICE, run_id, token(events), YES)
    else:
        b.store.wake(ALICE, run_id, orjson.dumps({"tool_call_id": "call_1_0", "result_json": '{"paid": true}'}))
        await (await b.runs.resume(ALICE, SESSION))
    await until(lambda: not b.runs._takeover._resuming)
    await worker.take(ALICE, SESSION, 1)
    rest = await ended(b, run_id, after=len(events))
    (finished,) = [event.tool_finished for event in rest if event.HasField("tool_finished")]
    assert (finished.result_json, kinds(rest)[-1]) == ('{"paid": true}', "completed")
    await worker.close()


async def test_stopping_a_run_stops_the_slow_tool_it_waits_for(b):
    run_id, _ = await asks(b, "report")
    act_as(ALICE)
    await b.runs.cancel(ALICE, run_id)
    await until(lambda: b.tools.ended)
    assert kinds(await ended(b, run_id))[-1] == "cancelled"
    assert b.tools.ended == b.tools.begun


async def test_a_run_that_waits_holds_its_session_and_the_next_follows(b):
    run_id, events = await asks(b, "refund")
    second = await b.begin("and?")
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    assert kinds(await ended(b, second))[-1] == "completed"
    said = [message.content for message in b.store.history(ALICE, SESSION) if message.role == "user"]
    assert said == ["please", "and?"]


async def test_time_spent_waiting_does_not_count(b):
    b.agent_is(timeout_s=0.4)
    run_id, events = await asks(b, "refund")
    await asyncio.sleep(0.5)
    act_as(ALICE)
    await b.runs.respond(ALICE, run_id, token(events), YES)
    last = (await ended(b, run_id))[-1]
    assert last.completed.usage.elapsed.ToMilliseconds() < 400
