"""A model that talks junk, played by the scripted model through the whole stack: told three times, then left alone.

tests/unit/orchestrator/test_arguments.py has a great many more of them, without the stack.
"""

import pytest

from myriad.common.v1 import agent_pb2, tool_pb2
from tests.support.client import face, kinds, put_agent, sim
from tests.support.metrics import metrics_at

STEPS = 5
SCHEMA = {
    "type": "object",
    "properties": {"expression": {"type": "string", "maxLength": 100}},
    "required": ["expression"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
async def user(stack):
    tool = tool_pb2.Tool(name="calculate", description="Calculates.", side_effect=tool_pb2.SIDE_EFFECT_READ)
    tool.parameters.update(SCHEMA)
    tool.builtin.function = "calculator"
    model = agent_pb2.ModelPolicy(model="sim_llm", tool_choice=agent_pb2.TOOL_CHOICE_MODEL)
    await put_agent(stack, "junk", tools=[tool], model=model, limits=agent_pb2.RunLimits(max_steps=STEPS))
    async with face(stack) as made:
        yield made


async def executed(stack) -> float:
    """Calls that toolexec has been asked to make."""
    shown = await metrics_at(stack.address("toolexec_metrics"))
    return shown.sum("myriad_rpc_seconds_count", method="/myriad.toolexec.v1.ToolExecService/Execute")


def again_and_again(calls, times):
    """A script that asks for the same, call after call of the model, and says a word each time."""
    script = {"text": "Done."}
    for _ in range(times):
        script = {"text": "Hm. ", "tool_calls": calls, "then": script}
    return sim(**script)


JUNK = {
    "broken JSON": [{"name": "calculate", "arguments": '{"expression": "1+'}],
    "no object": [{"name": "calculate", "arguments": "[1]"}],
    "wrong type": [{"name": "calculate", "arguments": {"expression": 7}}],
    "missing argument": [{"name": "calculate", "arguments": {}}],
    "unknown argument": [{"name": "calculate", "arguments": {"expression": "1", "x": 1}}],
    "too long": [{"name": "calculate", "arguments": {"expression": "1" * 1_000}}],
    "control character": [{"name": "calculate", "arguments": '{"expression": "\x07"}'}],
    "member twice": [{"name": "calculate", "arguments": '{"expression": "1", "expression": "2"}'}],
    "unknown tool": [{"name": "rm_rf", "arguments": {}}],
    "no name": [{"name": "", "arguments": {}}],
    "name of no text": [{"name": 7, "arguments": {}}],
    "same id twice": [{"name": "nothing", "id": "x"}, {"name": "nothing", "id": "x"}],
}


@pytest.mark.parametrize("calls", JUNK.values(), ids=JUNK)
async def test_junk_is_told_to_the_model_and_reaches_no_tool(user, stack, calls):
    before = await executed(stack)
    events = await user.turn(await user.session("junk"), again_and_again(calls, STEPS - 1))
    finished = [event.tool_finished for event in events if event.WhichOneof("event") == "tool_finished"]
    assert {each.reason for each in finished} <= {"INVALID_TOOL_ARGUMENTS", "TOOL_NOT_FOUND"}
    assert len(finished) == 3 + (len(calls) == 2)
    assert kinds(events)[-1] == "completed", events[-1]
    assert events[-1].completed.usage.tool_calls == 0
    assert await executed(stack) == before


async def test_junk_that_is_plain_is_repaired(user, stack):
    before = await executed(stack)
    calls = [{"name": "calculate", "arguments": '```json\n{"expression": "6*7"}\n```'}]
    events = await user.turn(await user.session("junk"), again_and_again(calls, 1))
    (finished,) = [event.tool_finished for event in events if event.WhichOneof("event") == "tool_finished"]
    assert finished.result_json == '{"result":42}'
    assert await executed(stack) == before + 1


async def test_a_model_that_always_wants_another_tool_stops_exactly_at_its_limit(user):
    calls = [{"name": "calculate", "arguments": {"expression": "1"}}]
    events = await user.turn(await user.session("junk"), again_and_again(calls, 50))
    failed = events[-1].failed
    assert (failed.error.code, failed.usage.model_calls) == (8, STEPS)
    assert failed.partial_answer == "Hm. " * STEPS
