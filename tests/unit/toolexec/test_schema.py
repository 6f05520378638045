import pytest

from services.kit.errors import FailedPrecondition, InvalidToolArguments
from services.toolexec.core.schema import Schemas, compile_schema
from tests.support.cpu import within

ORDER = {
    "type": "object",
    "properties": {
        "order": {"type": "string", "pattern": "^[0-9]{4}$"},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"count": {"type": "integer"}}}},
    },
    "required": ["order"],
    "additionalProperties": False,
}


def key(tool: str = "t", revision: int = 1) -> tuple[str, str, int, str]:
    return ("tenant", "agent", revision, tool)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({}, ["arguments.order"]),
        ({"order": 1001}, ["arguments.order"]),
        ({"order": "1001x"}, ["arguments.order"]),
        ({"order": "1001", "more": 1}, ["arguments"]),
        ({"order": "1001", "lines": [{"count": 1}, {"count": "x"}]}, ["arguments.lines.1.count"]),
        ({"lines": 3}, ["arguments.lines", "arguments.order"]),
    ],
)
async def test_arguments_that_do_not_fit_are_named(arguments, fields):
    with pytest.raises(InvalidToolArguments) as caught:
        await Schemas().check(key(), ORDER, arguments)
    assert sorted(caught.value.fields) == fields
    assert all(caught.value.fields.values())


async def test_a_tool_without_a_schema_takes_no_arguments():
    await Schemas().check(key(), None, {})
    with pytest.raises(InvalidToolArguments):
        await Schemas().check(key(), None, {"a": 1})


async def test_errors_are_few_and_short():
    schema = {"additionalProperties": {"type": "integer"}}
    with pytest.raises(InvalidToolArguments) as caught:
        await Schemas().check(key(), schema, {f"a{i}": "x" * 1_000 for i in range(100)})
    assert len(caught.value.fields) <= 16
    assert len(caught.value.message) < 16 * 250


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"properties": 3},
        {"properties": {"a": {"pattern": "(a"}}},
        {"properties": {"a": {"pattern": "(a)\\1"}}},
        {"properties": {"a": {"pattern": "(?<=a)b"}}},
        {"properties": {"a": {"pattern": "(a{1000}){1000}"}}},
        {"$ref": "#/$defs/none"},
        {"$ref": "other.json"},
        {"$ref": "#anchor"},
        {"$ref": 3},
        {"$ref": "#"},
        {"$dynamicRef": "#a"},
        {"properties": {"a": {"$id": "http://127.0.0.1/x", "$ref": "y"}}},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$defs": {"n": {"anyOf": [{"properties": {"a": {"$ref": "#/$defs/n"}}}]}}, "$ref": "#/$defs/n"},
        {"properties": {f"p{i}": {} for i in range(2_001)}},
    ],
)
async def test_a_schema_that_cannot_be_used_says_so(schema):
    with pytest.raises(FailedPrecondition, match=r"the JSON Schema of the tool t cannot be used: .+") as caught:
        await Schemas().check(key(), schema, {})
    assert len(caught.value.message) < 300


def test_references_that_multiply_are_refused_before_they_cost_anything():
    definitions = {f"n{i}": {"anyOf": [{"$ref": f"#/$defs/n{i + 1}"}] * 2} for i in range(40)}
    schema = {"$defs": definitions | {"n40": {"required": ["z"]}}, "$ref": "#/$defs/n0"}
    with within(0.2), pytest.raises(FailedPrecondition, match="subschemas"):
        compile_schema(schema, "t")


async def test_references_within_the_schema_work():
    schema = {
        "$id": "https://example.com/tool",
        "$defs": {"a/b": {"type": "integer", "minimum": 1.0}},
        "properties": {
            "a": {"$ref": "#/$defs/a~1b"},
            "$ref": {"type": "string"},
            "list": {"items": {"$ref": "#/$defs/a~1b"}},
        },
    }
    await Schemas().check(key(), schema, {"a": 1, "$ref": "http://x", "list": [1]})
    with pytest.raises(InvalidToolArguments):
        await Schemas().check(key(), schema, {"list": [0]})


async def test_an_expression_takes_linear_time():
    schemas = Schemas()
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}}}
    await schemas.check(key(), schema, {})
    with within(0.1), pytest.raises(InvalidToolArguments):
        await schemas.check(key(), schema, {"a": "a" * 60_000 + "!"})


async def test_a_schema_is_compiled_once_and_the_least_used_goes(monkeypatch):
    compiled: list[str] = []

    def count(schema, tool):
        compiled.append(tool)
        return compile_schema(schema, tool)

    monkeypatch.setattr("services.toolexec.core.schema.compile_schema", count)
    schemas = Schemas(size=2)
    for tool in ["a", "a", "b", "a", "c", "a", "b"]:
        await schemas.check(key(tool), None, {})
    assert compiled == ["a", "b", "c", "b"]


async def test_another_revision_is_another_schema():
    schemas = Schemas()
    await schemas.check(key(revision=1), {"type": "object"}, {"a": 1})
    with pytest.raises(InvalidToolArguments):
        await schemas.check(key(revision=2), None, {"a": 1})
