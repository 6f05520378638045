"""What the simulated model plays: a script found in the request, compiled to steps."""

import itertools
import json
from dataclasses import dataclass

_MARKER = "#sim "
_LONGEST_INTERVAL_MS = 1000
_MOST_HELD = 1000
"""Characters of text that wait for what comes next; a script without delays may be endless."""
# Field → type of its value. A misspelt field must not silently play something else.
_FIELDS = {
    "deltas": list,
    "text": str,
    "tokens": int,
    "delay_ms": (int, float),
    "first_ms": (int, float),
    "tool_calls": list,
    "then": dict,
    "error": str,
    "error_after": int,
    "echo": bool,
    "forever": bool,
    "usage": dict,
    "finish_reason": str,
}


class BadRequest(ValueError):
    """The body or its script cannot be played. The text is `<field>: <what is wrong>`."""


@dataclass(frozen=True)
class Step:
    """One response."""

    wait_s: float
    """Seconds between the response before it, or the request, and this one."""

    chunk: str = ""
    """The `chat.completion.chunk`, as JSON; empty for an error."""

    error: str = ""
    """The error's text; it ends the answer."""

    final: bool = False
    """Whether this response ends the answer."""


def read(raw, number):
    """Finds the script of a request.

    Args:
        raw: the request's bytes.
        number: makes the answer's id unique.

    Returns:
        An iterator of Steps (endless for `forever`), and whether any of them waits.

    Raises:
        BadRequest: naming the field.
    """
    try:
        request = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("request: not JSON") from None
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages: must be a non-empty list")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise BadRequest("messages: each must be an object with a role")
    script, depth = _script(messages)
    waits = bool(script.get("delay_ms") or script.get("first_ms") or script.get("forever"))
    return _Player(request, script, f"chatcmpl-sim-{number}", depth).steps(), waits


def _script(messages):
    """Returns the script for this call of the model, and how many calls of the turn came before it."""
    asked = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=None)
    if asked is None:
        return {}, 0
    depth = sum(message["role"] == "assistant" and bool(message.get("tool_calls")) for message in messages[asked:])
    index, line = _line(messages, asked)
    if line is None:
        return {}, depth
    field = f"messages[{index}].content"
    try:
        script = json.loads(line[len(_MARKER) :])
    except ValueError as error:
        raise BadRequest(f"{field}: the #sim line is not JSON: {error}") from None
    for _ in range(depth):
        script = script.get("then", {}) if isinstance(script, dict) else {}
    _check(script, field)
    return script, depth


def _line(messages, asked):
    """Returns where the script's line stands, and the line: of the last user, or else of the system. None: nowhere."""
    told = (index for index, message in enumerate(messages) if message["role"] == "system")
    for index in (asked, *told):
        for line in _text(messages[index]).splitlines():
            if line.startswith(_MARKER):
                return index, line
    return asked, None


def _check(script, field):
    if not isinstance(script, dict):
        raise BadRequest(f"{field}: the #sim script must be an object")
    for name, value in script.items():
        if name not in _FIELDS:
            raise BadRequest(f"{field}: the #sim script has no field {name!r}")
        if not isinstance(value, _FIELDS[name]):
            raise BadRequest(f"{field}: the #sim field {name!r} has the wrong type")
    if not all(isinstance(call, dict) and "name" in call for call in script.get("tool_calls", [])):
        raise BadRequest(f"{field}: each of the #sim field 'tool_calls' needs a name")


def _interval_ms(request):
    interval = request.get("chunk_interval_ms", 0)
    if not isinstance(interval, int | float) or not 0 <= interval <= _LONGEST_INTERVAL_MS:
        raise BadRequest(f"chunk_interval_ms: must be a number from 0 to {_LONGEST_INTERVAL_MS}")
    return interval


def _text(message):
    """Returns the text of a message, of a string or of content parts."""
    content = message.get("content") or ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


class _Player:
    """Turns one script into steps."""

    def __init__(self, request, script, answer_id, depth):
        self._request = request
        self._script = script
        self._depth = depth
        self._interval_s = _interval_ms(request) / 1000
        self._head = {"id": answer_id, "object": "chat.completion.chunk", "created": 0, "model": "sim"}

    def steps(self):
        """Yields the steps in order: text that comes too soon after a chunk goes with what comes next."""
        held, ago_s = "", 0.0
        for wait_s, delta, ending in self._parts():
            ago_s += wait_s
            text = held + delta.get("content", "")
            if delta.keys() == {"content"} and ago_s < self._interval_s and len(text) <= _MOST_HELD:
                held = text
                continue
            if text:
                delta["content"] = text
            error = ending.pop("error", "")
            if delta or not error:
                yield Step(ago_s, self._chunk(delta, **ending), final=bool(ending))
                ago_s = 0.0
            if error:
                yield Step(ago_s, error=error, final=True)
            held, ago_s = "", 0.0

    def _parts(self):
        """Yields what the script says, delta by delta: the wait before it, the delta, and how it ends the answer.

        One delta of text counts as one token, as does one tool call.
        """
        first = self._script.get("first_ms", 0) / 1000
        later = self._script.get("delay_ms", 20 if self._script.get("forever") else 0) / 1000
        limit = self._request.get("max_completion_tokens") or self._request.get("max_tokens")
        fails = self._script.get("error_after", 0) if "error" in self._script else None
        sent = 0
        for delta in self._deltas():
            if sent == fails:
                break
            if sent == limit:
                yield later, {}, self._ending("length", sent)
                return
            yield (later, delta, {}) if sent else (first, {"role": "assistant"} | delta, {})
            sent += 1
        if fails is not None:
            yield later if sent else first, {}, {"error": self._script["error"]}
            return
        reason = "tool_calls" if self._script.get("tool_calls") else "stop"
        # Without a wait: a real model's last chunk follows its last token at once.
        yield 0 if sent else first, {}, self._ending(self._script.get("finish_reason", reason), sent)

    def _deltas(self):
        texts = self._texts()
        if self._script.get("forever"):
            texts = itertools.cycle(texts)
        for text in texts:
            yield {"content": text}
        for index, call in enumerate(self._script.get("tool_calls", [])):
            arguments = call.get("arguments", {})
            # A string goes out as it is, so that broken JSON can be played.
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            function = {"name": call["name"], "arguments": text}
            call_id = call.get("id", f"call_{self._depth}_{index}")
            yield {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}

    def _texts(self):
        """Returns the text deltas: all that the script names, or the fixed answer if it names none of anything."""
        script, messages = self._script, self._request["messages"]
        texts = [str(text) for text in script.get("deltas", [])]
        if "text" in script:
            texts.append(script["text"])
        texts += [f"word{index} " for index in range(script.get("tokens", 0))]
        if script.get("echo"):
            texts.append(json.dumps(messages))
        if not texts and (script.get("forever") or not script.keys() & {"tool_calls", "error", "deltas", "tokens"}):
            return ["This is a simulated ", "answer to ", f"the {len(messages)} messages ", "it was given."]
        return texts

    def _ending(self, reason, sent):
        prompt = sum(len(_text(message).split()) for message in self._request["messages"])
        usage = {"prompt_tokens": prompt, "completion_tokens": sent, "total_tokens": prompt + sent}
        return {"reason": reason, "usage": usage | self._script.get("usage", {})}

    def _chunk(self, delta, reason=None, usage=None):
        chunk = self._head | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        return json.dumps(chunk | {"usage": usage} if usage else chunk)
