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
# Where schemas stand inside a schema.
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLES = ("items", "additionalProperties", "not")
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
    how = 'To call one, answer only with {"name": ..., "arguments": {...}}.'
    return "\n".join(["You can call these tools:", *lines, how])


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
    for name in _LOWER:
        if _is_number(schema.get(name)) and schema[name] > _REACHABLE:
            raise Unsupported(f"{field}: {name} above {_REACHABLE} cannot be reached")
    kept = {
        key: value for key, value in schema.items() if not (key in _UPPER and _is_number(value) and value > _REACHABLE)
    }
    return _inside(kept, lambda inner: _bounded(inner, field))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _closed(schema):
    """Returns the schema with additionalProperties false wherever it lists properties and says nothing of others."""
    # The branches of allOf see the same object: each must stay open for what the others name.
    closed = _inside(schema, _closed) | {key: schema[key] for key in ("allOf",) if key in schema}
    if isinstance(schema.get("properties"), dict) and not _OPEN & schema.keys():
        closed["additionalProperties"] = False
    return closed


def _inside(schema, change):
    """Returns a schema with `change` applied to the schemas directly inside it; names and values are left alone."""
    changed = dict(schema)
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            changed[key] = {name: change(own) if isinstance(own, dict) else own for name, own in value.items()}
        elif key in _LISTS and isinstance(value, list):
            changed[key] = [change(own) if isinstance(own, dict) else own for own in value]
        elif key in _SINGLES and isinstance(value, dict):
            changed[key] = change(value)
    return changed


def _reason(error):
    """Returns the line of a compiler's message that says what is wrong."""
    line = error.splitlines()[0]
    return line.partition("failed to compile JSON schema: ")[2] or line
