"""The language models of the model tier."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from services.kit.errors import ModelFailed
from services.kit.triton import Triton
from services.orchestrator.domain.agent import Message, Tool, ToolCall
from services.orchestrator.domain.turn import Chunk

_TIMEOUT_S = 600.0
"""The run's own time ends a call sooner."""

_MOST_CALLS = 64
_LONGEST_PIECE = 65_536
"""Characters of a tool call's name or arguments that are kept; more than the turn takes."""

_MOST_TOKENS = 10_000_000


class TritonModel:
    """`ports.Model` on Triton. A model takes and gives what OpenAI's chat completions do: triton_repo/README.md."""

    def __init__(self, triton: Triton, interval_s: float = 0.0) -> None:
        """Asks the models of `triton`, to send text that comes sooner than `interval_s` after a chunk with the next."""
        self._triton = triton
        self._interval_ms = round(interval_s * 1000)

    async def chat(
        self, model: str, messages: Sequence[Message], tools: Sequence[Tool], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Chunk]:
        """Streams an answer. Tool calls arrive in pieces and leave whole, at the end."""
        body: dict[str, Any] = {
            "messages": [_message(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if self._interval_ms:
            body["chunk_interval_ms"] = self._interval_ms
        if tools:
            body["tools"] = [_tool(tool) for tool in tools]
        pieces: dict[int, list[str]] = {}
        async with aclosing(self._triton.chat(model, body, _TIMEOUT_S)) as chunks:
            async for chunk in chunks:
                text, usage = _read(chunk, pieces)
                if text:
                    yield Chunk(text)
                if usage:
                    yield Chunk(prompt_tokens=_tokens(usage, "prompt"), completion_tokens=_tokens(usage, "completion"))
        if pieces:
            yield Chunk(tool_calls=tuple(ToolCall("", name, arguments) for name, arguments in pieces.values()))


def _read(chunk: Any, pieces: dict[int, list[str]]) -> tuple[str, dict[str, Any]]:
    """What a chunk adds to the text, and its usage; what it adds to tool calls goes into `pieces`.

    Raises:
        ModelFailed: it is no chunk of an answer.
    """
    text = ""
    try:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                _collect(pieces, call)
        return text, dict(chunk.get("usage") or {})
    except (AttributeError, TypeError, ValueError):
        raise ModelFailed("the model answered with something that is no answer") from None


def _collect(pieces: dict[int, list[str]], call: dict[str, Any]) -> None:
    """Adds a piece of a tool call. Of one that never ends, only so much that whoever checks it sees it is too long."""
    index, function = call.get("index", 0), call.get("function") or {}
    if index not in pieces and len(pieces) >= _MOST_CALLS:
        return
    whole = pieces.setdefault(index, ["", ""])
    for place, part in enumerate((function.get("name"), function.get("arguments"))):
        text = part if isinstance(part, str) else json.dumps(part) if part is not None else ""
        whole[place] += text[: _LONGEST_PIECE - len(whole[place])]


def _tokens(usage: dict[str, Any], kind: str) -> int:
    count = usage.get(f"{kind}_tokens")
    return min(count, _MOST_TOKENS) if isinstance(count, int) and count > 0 else 0


def _message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": call.arguments_json}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters or {"type": "object"}}
    return {"type": "function", "function": function}
