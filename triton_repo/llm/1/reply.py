"""Turns llama.cpp's chunks into the chunks a caller gets."""

import json
import math
import secrets
import time

_JSON_STARTS = tuple('{["-0123456789tfn')


class GenerationFailed(Exception):
    """llama.cpp could not answer. The text is `<kind>: <what>`; `invalid` says whether the request is to blame."""

    def __init__(self, text, invalid):
        """Says what failed."""
        super().__init__(text)
        self.invalid = invalid


class Reply:
    """The state of one answer, fed chunk by chunk.

    Text leaves as it comes, or with the text after it where the request asks for that. A tool call leaves whole, when
    its last token has come, as one OpenAI `tool_calls` delta. The last chunk has `finish_reason` and `usage`.
    """

    def __init__(self, chat, clock=time.monotonic):
        """Begins the answer to a chat.Chat."""
        self._chat = chat
        self._clock = clock
        self._sent_at = -math.inf
        self._early = ""
        """Text that came too soon after a chunk."""
        # A call and a constrained answer both begin with "{": only the whole text tells them apart.
        self._hold = chat.must_call or bool(chat.tools and chat.json_answer)
        self._text = ""
        self._last = None
        self.tokens = 0
        """Tokens seen so far; one content chunk counts as one until the usage says how many there were."""
        self.done = False
        """Whether the chunk fed last was the last one; the last of the chunks it gave ends the answer."""

    def feed(self, raw):
        """Takes one of llama.cpp's chunks (JSON text) and returns the chunks to send now (JSON texts).

        Raises:
            GenerationFailed: llama.cpp answered with an error, or left the constraint.
        """
        chunk = json.loads(raw)
        if "error" in chunk:
            raise _failure(chunk["error"])
        if "prompt_progress" in chunk:
            return []
        if chunk.get("usage"):
            return self._finish(chunk)
        choice = chunk["choices"][0]
        if choice["finish_reason"]:
            self._last = chunk
            return []
        content = choice["delta"].get("content")
        if content is None:
            return [raw]
        self.tokens += 1
        if not self._text:
            self._begin(content)
        if self._hold or self._chat.json_answer:
            self._text += content
        else:
            # Only that there was text matters from here on.
            self._text = content
        return [] if self._hold else self._paced(chunk, raw)

    def _paced(self, chunk, raw):
        """The chunk with the text that waits for it, or none: its text waits, too."""
        delta, now = chunk["choices"][0]["delta"], self._clock()
        if now - self._sent_at < self._chat.interval_s:
            self._early += delta["content"]
            return []
        self._sent_at = now
        if self._early:
            delta["content"], self._early = self._early + delta["content"], ""
            raw = json.dumps(chunk)
        return [raw]

    def _begin(self, content):
        """Looks at the first text: is it a call, and does the constraint hold?"""
        if self._chat.tools and content.startswith("{"):
            self._hold = True
        elif self._chat.must_call or (self._chat.json_answer and not content.startswith(_JSON_STARTS)):
            raise GenerationFailed("internal: the constraint was not applied", invalid=False)

    def _finish(self, usage):
        last = self._last or usage | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        self.tokens = usage["usage"]["completion_tokens"]
        last["usage"] = usage["usage"]
        last.pop("timings", None)
        self.done = True
        if self._early:
            last["choices"][0]["delta"] = {"content": self._early}
        sent = []
        if self._hold or self._chat.json_answer:
            sent = self._close(last)
        return [*sent, json.dumps(last)]

    def _close(self, last):
        """Ends an answer of which the whole text counts; returns what was held back, as chunks."""
        choice = last["choices"][0]
        try:
            value = json.loads(self._text)
        except ValueError:
            if choice["finish_reason"] == "stop" and not self._chat.stops:
                raise GenerationFailed("internal: the constraint was not applied", invalid=False) from None
            # Cut off by max_tokens, the context or a stop string: half a call is no call. finish_reason tells.
            value = None
        if not self._hold or value is None:
            return []
        delta = {"content": self._text}
        if isinstance(value, dict) and value.keys() == {"name", "arguments"} and value["name"] in self._chat.tools:
            function = {"name": value["name"], "arguments": json.dumps(value["arguments"])}
            call = {"index": 0, "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            delta = {"tool_calls": [call]}
            choice["finish_reason"] = "tool_calls"
        held = {key: value for key, value in last.items() if key != "usage"}
        return [json.dumps(held | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})]


def _failure(error):
    """Translates an error object of llama.cpp's server."""
    if error.get("type") == "exceed_context_size_error":
        sizes = f"{error.get('n_prompt_tokens')} tokens do not fit the context of {error.get('n_ctx')}"
        return GenerationFailed(f"invalid_request: messages: {sizes}", invalid=True)
    if error.get("code") == 400:
        return GenerationFailed(f"invalid_request: request: {error.get('message')}", invalid=True)
    return GenerationFailed(f"internal: {error.get('message')}", invalid=False)
