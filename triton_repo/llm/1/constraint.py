"""What an answer may look like: JSON Schemas and tool calls as one llguidance grammar."""

import functools
import json

import llguidance

# Sizes past which a bound says nothing (a slot's context holds fewer items) but building it costs memory.
_REACHABLE = 4096
_MAX_SCHEMA = 1 << 16
_UPPER = ("maxItems", "maxLength", "maxProperties")
_LOWER = ("minItems", "minLength", "minProperties")
# With one of these beside `properties`, forbidding other properties could leave nothing that is valid.
_OPEN = {"$ref", "allOf", "anyOf", "oneOf", "additionalProperties", "patternProperties", "unevaluatedProperties"}
# No free white space: a small model can go on indenting for ever.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Unsupported(ValueError):
    """A schema cannot be enforced. The text is `<field>: <why>`."""


def grammar(tools, must_call, answer):
    """Builds the grammar of an answer.

    Args:
        tools: what may be called: dicts of `name`, `parameters` (a JSON Schema) and `field` (its place in the request).
        must_call: whether only a call is an answer.
        answer: the schema of an answer that is no call; None for free text.

    Returns:
        The grammar, or None where everything is allowed.

    Raises:
        Unsupported: a schema that llama.cpp could not enforce. Of a tool's parameters, keywords that the library does
            not know are left to the tool's own validation; a response_format is enforced whole or refused.
    """
    if not tools and answer is None:
        return None
    starts, rules = [], []
    for index, tool in enumerate(tools):
        opening = json.dumps(f'{{"name": {json.dumps(tool["name"])}, "arguments": ')
        schema = _enforceable(json.dumps(tool["parameters"]), tool["field"], lenient=True)
        starts.append(f"call{index}")
        rules += [f'call{index}: {opening} arguments{index} "}}"', f"arguments{index}: %json {schema}"]
    if not must_call and answer is not None:
        starts.append("answer")
        field = "response_format.json_schema.schema"
        rules.append(f"answer: %json {_enforceable(json.dumps(answer), field, lenient=False)}")
    elif not must_call:
        # Not "{", so that the first character tells a call from an answer.
        starts.append("text")
        rules.append(r"text: /[^{\s](.|\n)*/")
    return "\n".join(["%llguidance {}", "start: " + " | ".join(starts), *rules])


def explain(tools):
    """Returns the words that make the model know of the tools; its chat template has no place for them."""
    lines = (json.dumps({key: tool[key] for key in ("name", "description", "parameters")}) for tool in tools)
    return (
        "You can call these tools:\n" + "\n".join(lines) + '\nTo call one, answer only with {"name": ..., "arguments": {...}}.'
    )


def call_text(name, arguments):
    """Returns a call as the model writes it. `arguments` is the JSON text that OpenAI messages carry."""
    return f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'


# The same few agents ask with the same schemas all day, and checking one costs about a millisecond.
@functools.lru_cache(maxsize=512)
def _enforceable(text, field, lenient):
    """Returns the schema (JSON text) in the form to enforce; raises Unsupported."""
    if len(text) > _MAX_SCHEMA:
        raise Unsupported(f"{field}: larger than {_MAX_SCHEMA} characters")
    try:
        schema = _bounded(json.loads(text), field)
    except RecursionError:
        raise Unsupported(f"{field}: nested too deeply") from None
    options = {"x-guidance": _LAYOUT | {"lenient": lenient}}
    error = "it is not valid"
    # First without properties that the schema does not name (a small model invents them without end), if it can be.
    for candidate in (_closed(schema), schema):
        prepared = json.dumps(candidate | options)
        error = llguidance.LLMatcher.validate_grammar("%llguidance {}\nstart: %json " + prepared)
        if not error:
            return prepared
    raise Unsupported(f"{field}: {_reason(error)}")


def _bounded(schema, field):
    """Drops upper bounds that no answer can reach and refuses lower ones; both would be built item by item."""
    if isinstance(schema, list):
        return [_bounded(entry, field) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    for name in _LOWER:
        if _is_number(schema.get(name)) and schema[name] > _REACHABLE:
            raise Unsupported(f"{field}: {name} above {_REACHABLE} cannot be reached")
    return {
        key: _bounded(value, field)
        for key, value in schema.items()
        if not (key in _UPPER and _is_number(value) and value > _REACHABLE)
    }


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _closed(schema):
    """Returns the schema with additionalProperties false wherever it lists properties and says nothing of others."""
    if isinstance(schema, list):
        return [_closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    # Branches of a combination see the same object: each must stay open for what the others name.
    closed = {key: value if key in ("allOf", "enum", "const", "default") else _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not _OPEN & schema.keys():
        closed["additionalProperties"] = False
    return closed


def _reason(error):
    """Returns the line of a compiler's message that says what is wrong."""
    line = error.splitlines()[0]
    return line.partition("failed to compile JSON schema: ")[2] or line
