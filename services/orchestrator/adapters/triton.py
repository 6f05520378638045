"""The language models of the model tier."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from services.kit.triton import Triton
from services.orchestrator.domain import Chunk, Message, Tool, ToolCall

_TIMEOUT_S = 600.0
"""The run's own time ends a call sooner."""


class TritonModel:
    """`ports.Model` on Triton. A model takes and gives what OpenAI's chat completions do: triton_repo/README.md."""

    def __init__(self, triton: Triton) -> None:
        """Asks the models of `triton`."""
        self._triton = triton

    async def chat(
        self, model: str, messages: Sequence[Message], tools: Sequence[Tool], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Chunk]:
        """Streams an answer. Tool calls arrive in pieces and leave whole, at the end."""
        body: dict[str, Any] = {
            "messages": [_message(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if tools:
            body["tools"] = [_tool(tool) for tool in tools]
        pieces: dict[int, list[str]] = {}
        async with aclosing(self._triton.chat(model, body, _TIMEOUT_S)) as chunks:
            async for chunk in chunks:
                for choice in chunk.get("choices", ()):
                    delta = choice.get("delta", {})
                    _collect(pieces, delta.get("tool_calls") or ())
                    if delta.get("content"):
                        yield Chunk(delta["content"])
                usage = chunk.get("usage")
                if usage:
                    yield Chunk(prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"])
        if pieces:
            yield Chunk(tool_calls=tuple(ToolCall("", name, arguments) for name, arguments in pieces.values()))


def _collect(pieces: dict[int, list[str]], deltas: Sequence[dict[str, Any]]) -> None:
    for delta in deltas:
        whole = pieces.setdefault(delta.get("index", 0), ["", ""])
        function = delta.get("function", {})
        whole[0] += function.get("name") or ""
        whole[1] += function.get("arguments") or ""


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
