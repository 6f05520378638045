"""Arguments of tool calls: what is repaired, what is refused, and that nothing else gets past."""

import json
import random

import pytest

from services.kit.errors import FailedPrecondition, InvalidToolArguments, ToolNotFound
from services.orchestrator.core.arguments import Schemas, repaired
from services.orchestrator.domain.agent import Tool, ToolCall
from services.orchestrator.domain.turn import Chunk
from services.toolexec.core.arguments import read_arguments
from services.toolexec.core.schema import compile_schema
from tests.support.hostile_model import junk_calls
from tests.support.orchestrator import bench, kinds

SCHEMA = {
    "type": "object",
    "properties": {"order_id": {"type": "integer", "minimum": 1}, "why": {"type": "string", "maxLength": 20}},
    "required": ["order_id"],
    "additionalProperties": False,
}
TOOLS = {"order_status": Tool("order_status", "Looks an order up.", SCHEMA, 5.0)}


def call(arguments: str, tool: str = "order_status") -> ToolCall:
    return ToolCall("call_1_0", tool, arguments)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", "{}"),
        (" \n", "{}"),
        ("null", "{}"),
        ('```json\n{"order_id": 1}\n```', '{"order_id": 1}'),
        ('```\n{"order_id": 1}```', '{"order_id": 1}'),
        ('"{\\"order_id\\": 1}"', '{"order_id": 1}'),
        (' {"order_id": 1} ', '{"order_id": 1}'),
    ],
)
def test_what_was_plainly_meant_is_repaired(said, meant):
    assert repaired(call(said)).arguments_json == meant


@pytest.mark.parametrize(
    "said", ["{", '"{', "[1]", "{'order_id': 1}", '{"order_id": 1,}', "order_id=1", '"a" "b"', '"\\ud800"']
)
def test_what_is_not_plain_stays_as_it_is(said):
    assert repaired(call(said)) == call(said)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ("{", "arguments"),
        ("[]", "arguments"),
        ("7", "arguments"),
        ('{"order_id": 1} trailing', "arguments"),
        ('{"order_id": 1, "order_id": 2}', "arguments"),
        ('{"order_id": NaN}', "arguments"),
        ('{"order_id": 1e999}', "arguments"),
        ('{"order_id": ' + "9" * 301 + "}", "arguments"),
        ('{"order_id": ' + "9" * 5000 + "}", "arguments"),
        ('{"order_id": 1, "why": "\\ud800"}', "arguments"),
        ('{"order_id": 1, "why": "\x00"}', "arguments"),
        ('{"a":' * 33 + "1" + "}" * 33, "arguments"),
        ("[" * 15_000, "arguments"),
        ("{}", "arguments"),
        ('{"order_id": "1"}', "arguments.order_id"),
        ('{"order_id": 0}', "arguments.order_id"),
        ('{"order_id": 1, "why": "xxxxxxxxxxxxxxxxxxxxxx"}', "arguments.why"),
        ('{"order_id": 1, "other": 2}', "arguments"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(arguments, field):
    with pytest.raises(InvalidToolArguments) as caught:
        Schemas(TOOLS).check(call(arguments))
    assert field in caught.value.fields
    assert len(caught.value.message) < 1000


def test_arguments_that_fit_find_their_tool():
    schemas = Schemas(TOOLS)
    for _ in range(2):
        assert schemas.check(call('{"order_id": 1}')) is TOOLS["order_status"]


def test_a_tool_that_is_not_there_is_not_found():
    with pytest.raises(ToolNotFound):
        Schemas(TOOLS).check(call("{}", "rm_rf"))


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "integer"}}, "properties": {"order_id": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "http://127.0.0.1:1/x"}]},
        {"type": "nonsense"},
        {"properties": {f"p{n}": {"type": "integer"} for n in range(2_000)}},
    ],
    ids=["reference", "remote", "broken", "large"],
)
def test_a_schema_that_is_not_plain_is_left_to_toolexec(schema):
    Schemas({"t": Tool("t", "d", schema, 1.0)}).check(call('{"order_id": "x"}', "t"))


@pytest.mark.parametrize("seeds", [250, pytest.param(10_000, marks=pytest.mark.chaos)])
async def test_models_that_talk_junk_break_nothing_and_nothing_wrong_leaves(seeds):
    """Held against toolexec's own reader: what reaches it would be run."""
    validator = compile_schema(SCHEMA, "order_status")
    ends, ran = set(), 0
    for seed in range(seeds):
        chance = random.Random(seed)
        async with bench() as b:
            b.agent_is(tools=TOOLS, model_chooses_tools=True, max_steps=8)
            b.tools.results["order_status"] = ("{}", False)
            junk = [Chunk(tool_calls=tuple(junk_calls(chance))) for _ in range(8)]
            b.model.scripts = [[chunk] if chance.random() < 0.5 else ["So. ", chunk] for chunk in junk]
            events = await b.turn()
            for made, _, _ in b.tools.calls:
                ran += 1
                assert made.tool == "order_status", seed
                assert validator.is_valid(read_arguments(made.arguments_json)), seed
            last = events[-1]
            assert kinds([last])[0] in {"completed", "failed"}, seed
            assert kinds([last]) == ["completed"] or last.failed.error.message != "internal error", seed
            ends.add(kinds([last])[0])
            rounds = sum(1 for each in b.model.asked if told_of_bad_calls(each[-1].content))
            assert rounds <= 3, seed
    assert ends == {"completed", "failed"}
    assert ran > 0.1 * seeds


def told_of_bad_calls(content: str) -> bool:
    """Whether the newest observation is that a call was bad."""
    try:
        return "error" in json.loads(content)
    except ValueError:
        return False


def test_toolexec_would_refuse_what_is_refused_here():
    """A control: the same junk, held against toolexec alone, is mostly refused there too."""
    validator, refused, total = compile_schema(SCHEMA, "order_status"), 0, 0
    for seed in range(200):
        for made in junk_calls(random.Random(seed)):
            total += 1
            try:
                refused += made.tool != "order_status" or not validator.is_valid(read_arguments(made.arguments_json))
            except (InvalidToolArguments, FailedPrecondition, UnicodeError):
                refused += 1
    assert 0.5 < refused / total < 1
