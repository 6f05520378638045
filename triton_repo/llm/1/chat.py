"""Reads an OpenAI chat-completions body and says what llama.cpp is to do for it."""

import json
import re
from dataclasses import dataclass

import constraint
import retold

_MAX_BODY = 1 << 20
_ROLES = {"system", "developer", "user", "assistant", "tool"}
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Field → (least, most): what is passed on as it is. What else llama.cpp would read (a grammar, a slot number) is not.
_NUMBERS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}


class BadRequest(ValueError):
    """The body is not one this model can serve. The text is `<field>: <what is wrong>`."""


@dataclass(frozen=True)
class Chat:
    """A request, checked and translated."""

    body: str
    """JSON for llama.cpp's chat handler."""

    tools: frozenset[str]
    """Names that an answer may call; empty where none may be."""

    must_call: bool
    """Whether the answer can only be a call of one of `tools`."""

    json_answer: bool
    """Whether an answer that is no call is constrained JSON."""

    stops: bool
    """Whether stop strings may cut an answer short."""

    interval_s: float = 0.0
    """Text that comes sooner after a chunk waits for the text after it."""


def read(raw, default_max_tokens, *, reuses=True):
    """Translates a body.

    Args:
        raw: the request's bytes.
        default_max_tokens: tokens to generate where the body names no limit.
        reuses: whether the beginning of a past prompt may be used again. It tells others, by the time, what was asked.

    Returns:
        The Chat to run.

    Raises:
        BadRequest: naming the field.
    """
    request = _object(raw)
    tools = _tools(request.get("tools"))
    choice = _choice(request.get("tool_choice"), tools)
    answer = _answer_schema(request.get("response_format"))
    if isinstance(choice, dict):
        tools = [choice]
    if choice == "none":
        tools = []
    must_call = bool(tools) and choice != "auto"
    try:
        grammar = constraint.grammar(tools, must_call, answer)
    except constraint.Unsupported as error:
        raise BadRequest(str(error)) from None
    body = {
        "messages": _messages(request.get("messages"), tools),
        "max_tokens": _max_tokens(request, default_max_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
        # One chunk per batch of the prompt: the only moment at which a cancellation can be seen before the first token.
        "return_progress": True,
        "cache_prompt": reuses,
    }
    body |= {name: _number(request, name, *span) for name, span in _NUMBERS.items() if request.get(name) is not None}
    if request.get("seed") is not None:
        body["seed"] = _integer(request["seed"], "seed") % (1 << 32)
    if request.get("stop") is not None:
        body["stop"] = _stop(request["stop"])
    if grammar:
        body["grammar"] = grammar
    if request.get("n") not in (None, 1):
        raise BadRequest("n: only 1 is served")
    return Chat(
        body=json.dumps(body),
        tools=frozenset(tool["name"] for tool in tools),
        must_call=must_call,
        json_answer=answer is not None,
        stops="stop" in body,
        interval_s=_number(request, "chunk_interval_ms", 0, 1000) / 1000 if request.get("chunk_interval_ms") else 0.0,
    )


def _object(raw):
    if len(raw) > _MAX_BODY:
        raise BadRequest(f"request: larger than {_MAX_BODY} bytes")
    try:
        request = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("request: not JSON") from None
    if not isinstance(request, dict):
        raise BadRequest("request: must be a JSON object")
    return request


def _messages(messages, tools):
    """Returns the messages as role and text: this model's template knows neither tools nor content parts."""
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages: must be a non-empty list")
    plain = [_message(message, f"messages[{index}]", tools) for index, message in enumerate(messages)]
    if tools:
        explained = constraint.explain(tools)
        if plain[0]["role"] == "system":
            plain[0]["content"] += "\n\n" + explained
        else:
            plain.insert(0, {"role": "system", "content": explained})
        return plain
    return retold.retell(messages, plain)


def _message(message, field, tools):
    if not isinstance(message, dict):
        raise BadRequest(f"{field}: must be an object")
    role = message.get("role")
    if role not in _ROLES:
        raise BadRequest(f"{field}.role: must be one of {', '.join(sorted(_ROLES))}")
    calls = message.get("tool_calls") if role == "assistant" else None
    text = _text(message.get("content"), f"{field}.content", optional=bool(calls))
    if calls:
        text = "\n".join([text] * bool(text) + [_past_call(call, f"{field}.tool_calls") for call in calls])
    if role == "tool" and tools:
        # The model was never shown this role; a user's word is what it takes as fact.
        return {"role": "user", "content": f"Result of the tool call: {text}"}
    return {"role": "system" if role == "developer" else role, "content": text}


def _past_call(call, field):
    try:
        function = call["function"]
        return constraint.call_text(function["name"], function["arguments"])
    except (TypeError, KeyError):
        raise BadRequest(f"{field}: each needs function.name and function.arguments") from None


def _text(content, field, optional):
    if content is None and optional:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"{field}: must be a string or a list of text parts")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(f"{field}[{index}]: only text parts are served")
    return "".join(part["text"] for part in content)


def _tools(tools):
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > 128:
        raise BadRequest("tools: must be a list of at most 128")
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _tool(tool, field):
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        raise BadRequest(f"{field}.function: must be an object")
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise BadRequest(f"{field}.function.name: must be 1 to 64 of letters, digits, '_', '.', '-'")
    if not isinstance(description, str):
        raise BadRequest(f"{field}.function.description: must be a string")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{field}.function.parameters: must be an object")
    return {"name": name, "description": description, "parameters": parameters, "field": f"{field}.function.parameters"}


def _choice(choice, tools):
    """Returns "none", "auto", "required", or the one tool that is named."""
    if choice is None:
        return "auto" if tools else "none"
    if choice in ("none", "auto", "required"):
        if choice == "required" and not tools:
            raise BadRequest("tool_choice: required, but there are no tools")
        return choice
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    for tool in tools:
        if tool["name"] == name:
            return tool
    raise BadRequest("tool_choice: must be none, auto, required, or name one of the tools")


def _answer_schema(wanted):
    """Returns the schema of the answer, or None for free text."""
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise BadRequest("response_format.type: must be text, json_object or json_schema")
    schema = wanted["json_schema"].get("schema") if isinstance(wanted.get("json_schema"), dict) else None
    if not isinstance(schema, dict):
        raise BadRequest("response_format.json_schema.schema: must be an object")
    return schema


def _max_tokens(request, default):
    for name in ("max_completion_tokens", "max_tokens"):
        if request.get(name) is not None:
            value = _integer(request[name], name)
            if value < 1:
                raise BadRequest(f"{name}: must be at least 1")
            return min(value, 1 << 30)
    return default


def _integer(value, field):
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{field}: must be an integer")
    return value


def _number(request, field, least, most):
    value = request[field]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise BadRequest(f"{field}: must be a number from {least} to {most}")
    return value


def _stop(stop):
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(entry, str) and entry for entry in stops):
        raise BadRequest("stop: must be a non-empty string or a list of at most 16")
    return stops
