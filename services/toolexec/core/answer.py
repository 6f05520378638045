"""What the model gets to see of an HTTP answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.kit.errors import ToolResponseTooLarge
from services.toolexec.core import json_text
from services.toolexec.domain import HttpCall, HttpResponse

MAX_DEPTH = 100
MAX_ERROR_BYTES = 4_096
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json")
_DOWN = frozenset({502, 503, 504})
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Answer:
    """JSON text, whether it is an error for the model to read, and whether it says that nobody serves the tool."""

    result_json: str
    is_error: bool = False
    is_down: bool = False


def problem(what: str) -> Answer:
    """The tool answered, and the answer is of no use."""
    return Answer(json_text.write({"error": what}), is_error=True)


def read_answer(call: HttpCall, response: HttpResponse) -> Answer:
    """The answer of a tool.

    A status outside 200-299 is an error with the status and the beginning of the body. Bytes that are no UTF-8 become
    U+FFFD. JSON is narrowed to what the tool names, absent members being null; other text is a JSON string.

    Raises:
        ToolResponseTooLarge: a good answer is larger than the tool allows, as it came or as the model would see it.
    """
    text = response.body.decode("utf-8", "replace")
    if not 200 <= response.status <= 299:
        return _refusal(response, text)
    if response.truncated:
        raise _too_large(call)
    if not response.body:
        return Answer("null")
    if _JSON.fullmatch(response.content_type):
        return _json(call, text)
    if not response.content_type.startswith("text/"):
        return problem("the tool answered with neither JSON nor text")
    if call.response:
        return problem("the tool answered with text where JSON was expected")
    return _sized(call, text)


def _json(call: HttpCall, text: str) -> Answer:
    try:
        value = json_text.read(text, MAX_DEPTH)
    except ValueError as error:
        return problem(f"the tool's JSON {error}")
    if call.response:
        value = {name: _at(value, pointer) for name, pointer in call.response.items()}
    return _sized(call, value)


def _sized(call: HttpCall, value: Any) -> Answer:
    result = json_text.write(value)
    # Naming one member many times, or escaping, makes it larger than what came.
    if len(result.encode()) > 2 * call.max_response_bytes:
        raise _too_large(call)
    return Answer(result)


def _too_large(call: HttpCall) -> ToolResponseTooLarge:
    return ToolResponseTooLarge(f"the tool's answer is larger than {call.max_response_bytes} bytes")


def _refusal(response: HttpResponse, text: str) -> Answer:
    body: Any = text[:MAX_ERROR_BYTES]
    whole = not response.truncated and len(text) <= MAX_ERROR_BYTES
    if whole and _JSON.fullmatch(response.content_type):
        try:
            body = json_text.read(text, MAX_DEPTH)
        except ValueError:
            body = text
    refusal = json_text.write({"status": response.status, "body": body})
    return Answer(refusal, is_error=True, is_down=response.status in _DOWN)


def _at(value: Any, pointer: str) -> Any:
    """What a JSON Pointer (RFC 6901) names; None when there is nothing."""
    if pointer and not pointer.startswith("/"):
        return None
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = _member(value, name)
        if value is _MISSING:
            return None
    return value


def _member(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name, _MISSING)
    if isinstance(value, list) and re.fullmatch("0|[1-9][0-9]{0,8}", name) and int(name) < len(value):
        return value[int(name)]
    return _MISSING
