"""A run that would never end by itself stops exactly at each of its limits, and keeps what it has said."""

import time

import pytest
from google.rpc import error_details_pb2

from services.kit.amounts import Amounts
from services.orchestrator.config import Config
from services.orchestrator.domain.agent import Tool, ToolCall
from services.orchestrator.domain.turn import Chunk
from tests.support.orchestrator import ALICE, SESSION, bench, deltas, kinds

SEARCH = Tool("search", "Searches.", {"type": "object", "properties": {}}, 5.0)
AGAIN = ["Let me see. ", Chunk(tool_calls=(ToolCall("", "search", "{}"),))]
"""What the model says each time: another tool. Each call has 10 tokens read and 5 written."""
RUNAWAY = {
    "tools": {"search": SEARCH},
    "model_chooses_tools": True,
    "max_steps": 50,
    "max_tokens": 32_768,
    "timeout_s": 20.0,
}
PRICED = Config(coalesce_s=0.01, heartbeat_s=0.03, end_s=1.0, model_prices=("llm=1000/2000",))
"""A call of the model costs 10 + 2 * 5 = 20."""


@pytest.fixture
async def b():
    async with bench(config=PRICED) as made:
        made.agent_is(**RUNAWAY)
        made.model.scripts = [AGAIN]
        made.tools.results["search"] = ('{"found": 0}', False)
        yield made


async def runaway(b):
    """Its last event, after what holds for each of these runs."""
    events = await b.turn()
    failed = events[-1].failed
    assert kinds(events)[-1] == "failed"
    assert failed.error.code == 8  # RESOURCE_EXHAUSTED
    assert failed.partial_answer == deltas(events) == "Let me see. " * len(b.model.asked)
    said = [message.content for message in b.store.history(ALICE, SESSION) if message.content]
    assert said[-1] == failed.partial_answer or not failed.partial_answer
    spent = b.store.spent[f"{SESSION}.1"]
    usage = failed.usage
    assert (spent.tokens, spent.cost_micros, spent.tool_calls) == (
        usage.prompt_tokens + usage.completion_tokens,
        usage.cost_micros,
        usage.tool_calls,
    )
    return failed


def details(failed):
    """The reason, and after how many seconds trying again may help."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    failed.error.details[0].Unpack(info)
    found = [each for each in failed.error.details if each.Unpack(retry)]
    return info.reason, retry.retry_delay.seconds if found else None


async def test_it_stops_at_its_steps(b):
    b.agent_is(max_steps=4)
    failed = await runaway(b)
    assert (failed.usage.model_calls, failed.usage.tool_calls) == (4, 4)
    assert details(failed) == ("RUN_LIMIT_REACHED", None)


async def test_it_stops_at_the_tokens_it_may_write(b):
    b.agent_is(max_tokens=15)
    failed = await runaway(b)
    assert (failed.usage.completion_tokens, failed.usage.model_calls) == (15, 3)
    assert details(failed)[0] == "RUN_LIMIT_REACHED"


async def test_it_stops_at_what_it_may_cost(b):
    b.agent_is(max_cost_micros=100)
    failed = await runaway(b)
    assert 40 <= failed.usage.cost_micros <= 100
    assert details(failed)[0] == "RUN_LIMIT_REACHED"


async def test_it_stops_at_its_tool_calls(b):
    b.agent_is(max_tool_calls=3)
    failed = await runaway(b)
    assert (failed.usage.tool_calls, len(b.tools.calls)) == (3, 3)
    assert details(failed)[0] == "RUN_LIMIT_REACHED"


async def test_it_stops_at_its_time(b):
    b.agent_is(timeout_s=3.0)
    b.model.scripts = [["Let me see. ", 0.5, AGAIN[1]]]
    began = time.monotonic()
    failed = await runaway(b)
    assert 3.0 <= time.monotonic() - began < 6.0
    assert details(failed)[0] == "RUN_LIMIT_REACHED"


@pytest.mark.parametrize(
    ("granted", "most"),
    [
        (Amounts(tokens=200), lambda usage: usage.prompt_tokens + usage.completion_tokens),
        (Amounts(cost_micros=200), lambda usage: usage.cost_micros),
        (Amounts(tool_calls=5), lambda usage: usage.tool_calls),
    ],
)
async def test_it_stops_in_the_middle_when_its_budget_is_gone_and_says_when_there_is_more(b, granted, most):
    b.store.granted, b.store.renews_ms = granted, int(time.time() * 1000) + 60_500
    failed = await runaway(b)
    (limit,) = [each for each in granted if each is not None]
    assert limit / 2 <= most(failed.usage) <= limit
    assert details(failed) == ("BUDGET_EXHAUSTED", 60)
    assert failed.usage.model_calls < 50


async def test_tool_calls_of_a_budget_are_used_to_the_last_one(b):
    b.store.granted = Amounts(tool_calls=5)
    failed = await runaway(b)
    assert (failed.usage.tool_calls, failed.usage.remaining.tool_calls) == (5, 0)
    assert details(failed) == ("BUDGET_EXHAUSTED", None)


async def test_it_stops_when_the_time_of_its_budget_is_gone(b):
    b.store.granted = Amounts(milliseconds=3_000)
    b.model.scripts = [["Let me see. ", 0.5, AGAIN[1]]]
    began = time.monotonic()
    failed = await runaway(b)
    assert 3.0 <= time.monotonic() - began < 6.0
    assert details(failed) == ("BUDGET_EXHAUSTED", None)


@pytest.mark.parametrize("granted", [Amounts(tokens=0), Amounts(cost_micros=0), Amounts(milliseconds=0)])
async def test_a_run_that_was_granted_nothing_says_so_in_its_log_and_asks_no_model(b, granted):
    b.store.granted = granted
    events = await b.turn()
    assert kinds(events)[-1] == "failed"
    assert details(events[-1].failed)[0] == "BUDGET_EXHAUSTED"
    assert b.model.asked == []
    assert b.store.history(ALICE, SESSION) == []


async def test_the_control_without_limits_goes_on(b):
    b.agent_is(max_steps=12)
    assert (await runaway(b)).usage.model_calls == 12


async def test_usage_is_told_after_each_call_but_the_first_and_what_remains_with_it(b):
    b.store.granted = Amounts(tokens=1000, tool_calls=9)
    b.model.scripts = [AGAIN, AGAIN, ["Nothing."]]
    events = await b.turn()
    told = [event.usage for event in events if event.WhichOneof("event") == "usage"]
    assert [each.model_calls for each in told] == [2, 3]
    assert [each.cost_micros for each in told] == [40, 60]
    assert [(each.remaining.tokens, each.remaining.tool_calls) for each in told] == [(970, 8), (955, 7)]
    last = events[-1].completed.usage
    assert (last.remaining.tokens, last.remaining.HasField("cost_micros")) == (955, False)


async def test_a_plain_turn_tells_no_usage_before_its_last_event(b):
    b.model.scripts = [["Hello."]]
    events = await b.turn()
    assert "usage" not in kinds(events)
    assert not events[-1].completed.usage.HasField("remaining")


async def test_a_stopped_run_has_spent_what_it_said(b):
    b.model.scripts = [["One, ", "two", 60.0]]
    run_id = await b.begin()
    async for entry in b.runs.watch(ALICE, run_id, 2):
        if entry is not None:
            break
    await b.runs.cancel(ALICE, run_id)
    events = await b.events(run_id)
    usage = events[-1].cancelled.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens >= 2
    assert b.store.spent[run_id].tokens == usage.prompt_tokens + usage.completion_tokens
