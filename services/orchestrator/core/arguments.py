"""The arguments of tool calls: repaired where it is plain what a model meant, checked before anything is sent."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jsonschema_rs

from services.kit.errors import InvalidToolArguments, ToolNotFound
from services.orchestrator.domain.agent import Tool, ToolCall

_MAX_DEPTH = 32
_MAX_DIGITS = 300
_MAX_SCHEMA_NODES = 2_000
_MAX_WRONG = 4
_MAX_MESSAGE = 200
# Following references is toolexec's work: a few definitions that refer twice to the next take hours to check.
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef", "$id"})
_FENCED = re.compile(r"```\w*\s(.*)```", re.DOTALL)


def repaired(call: ToolCall) -> ToolCall:
    """The call, its arguments written as the contract wants them where it is plain what was meant.

    Models leave arguments out, put them into a block of code, or write the object as a string in JSON. All else stays
    as it is, for `Schemas.check` to refuse.
    """
    text = call.arguments_json.strip()
    fenced = _FENCED.fullmatch(text)
    if fenced:
        text = fenced[1].strip()
    if text.startswith('"'):
        try:
            text = json.loads(text).strip()
            text.encode()
        except ValueError:  # no string, or one with half a character
            return call
    return replace(call, arguments_json=text if text not in {"", "null"} else "{}")


class Schemas:
    """The tools of one agent, with the schemas of their arguments, compiled when they are first needed.

    Whatever a model or an intent asks for is held against them before anything is sent. toolexec checks again, and is
    the only one to check a schema with references.
    """

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        """Compiles nothing yet."""
        self._tools = tools
        self._compiled: dict[str, jsonschema_rs.Validator | None] = {}

    def check(self, call: ToolCall) -> Tool:
        """The tool a call is for.

        Raises:
            ToolNotFound: there is none of that name.
            InvalidToolArguments: the arguments are no JSON object, or do not fit; names what is wrong for the model.
        """
        tool = self._tools.get(call.tool)
        if tool is None:
            raise ToolNotFound(f"there is no tool {call.tool}")
        arguments = _arguments(call.arguments_json)
        if call.tool not in self._compiled:
            self._compiled[call.tool] = _compile(tool.parameters)
        validator = self._compiled[call.tool]
        if validator is not None and not validator.is_valid(arguments):
            raise _misfit(validator, arguments)
        return tool


def _arguments(text: str) -> dict[str, Any]:
    """The members of a JSON object, as strict as toolexec reads them."""
    try:
        value = json.loads(
            text, object_pairs_hook=_members, parse_constant=_finite, parse_float=_finite, parse_int=_short
        )
        if "\\" in text:  # only an escape can make half a character
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _wrong(f"are not valid JSON: {error.msg} at character {error.pos}") from None
    except UnicodeEncodeError:
        raise _wrong("hold half a character") from None
    except ValueError as error:
        raise _wrong(str(error)) from None
    except RecursionError:
        raise _wrong(f"nest deeper than {_MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise _wrong("must be a JSON object")
    if _deeper(value, _MAX_DEPTH):
        raise _wrong(f"nest deeper than {_MAX_DEPTH} levels")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("name a member twice")
    return members


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("hold a number that is not finite")
    return value


def _short(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"hold a number of over {_MAX_DIGITS} digits")
    return int(text)


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects nest deeper than so many levels."""
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(child, levels - 1) for child in children)


def _compile(schema: Mapping[str, Any]) -> jsonschema_rs.Validator | None:
    """The schema, ready to check with. None: toolexec must say whether it is one, and what fits."""
    if not _is_plain(schema):
        return None
    try:
        return jsonschema_rs.Draft202012Validator(
            dict(schema), pattern_options=jsonschema_rs.RegexOptions(), validate_formats=False
        )
    except ValueError:
        return None


def _is_plain(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is small and holds nothing that may be a reference."""
    waiting: list[Any] = [schema]
    for _ in range(_MAX_SCHEMA_NODES):
        if not waiting:
            return True
        value = waiting.pop()
        if isinstance(value, Mapping):
            if not _REFERENCES.isdisjoint(value):
                return False
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _misfit(validator: jsonschema_rs.Validator, arguments: dict[str, Any]) -> InvalidToolArguments:
    fields: dict[str, str] = {}
    for error, _ in zip(validator.iter_errors(arguments), range(_MAX_WRONG), strict=False):
        path = ".".join(["arguments", *map(str, error.instance_path)])
        fields.setdefault(path, error.message[:_MAX_MESSAGE])
    listed = "; ".join(f"{path}: {what}" for path, what in fields.items())
    return InvalidToolArguments(f"the arguments do not fit the tool: {listed}", fields=fields)


def _wrong(what: str) -> InvalidToolArguments:
    return InvalidToolArguments(f"the arguments {what}", fields={"arguments": what})
