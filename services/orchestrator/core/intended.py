"""Which tool an understood intent calls, and with what."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.orchestrator.domain.agent import Agent, Intent, Message, Role, ToolBinding, ToolCall
from services.orchestrator.domain.turn import Entity, Understanding


@dataclass(frozen=True, slots=True)
class Asked:
    """An intent's tool lacks an argument: what to ask the user for it."""

    parameter: str
    question: str


def intended(agent: Agent, understanding: Understanding, history: Sequence[Message]) -> ToolCall | Asked | None:
    """What the user's intent asks for: a call, a question back, or nothing.

    An answer to the question of the turn before counts as that turn's intent: to `1007` alone no classifier can tell
    that an order is meant.
    """
    binding = _binding(agent, understanding, history)
    if binding is None or binding.tool not in agent.tools:
        return None
    schema = agent.tools[binding.tool].parameters
    arguments: dict[str, Any] = {}
    for parameter, entity_type in binding.arguments.items():
        value = _first(understanding.entities, entity_type)
        if value is not None:
            arguments[parameter] = _typed(value, schema.get("properties", {}).get(parameter, {}))
    for parameter in schema.get("required", ()):
        if parameter not in arguments:
            return Asked(parameter, binding.ask) if binding.ask else None
    return ToolCall("call_0_0", binding.tool, json.dumps(arguments))


def _binding(agent: Agent, understanding: Understanding, history: Sequence[Message]) -> ToolBinding | None:
    intent = agent.intents.get(understanding.intent)
    if intent is not None and intent.binding is not None:
        return intent.binding
    return next((each.binding for each in agent.intents.values() if _answers(each, understanding, history)), None)


def _answers(intent: Intent, understanding: Understanding, history: Sequence[Message]) -> bool:
    if intent.binding is None or not intent.binding.ask or not history:
        return False
    asked = history[-1].role is Role.ASSISTANT and history[-1].content == intent.binding.ask
    found = {entity.type for entity in understanding.entities}
    return asked and bool(found & set(intent.binding.arguments.values()))


def _first(entities: Sequence[Entity], entity_type: str) -> str | None:
    return next((entity.value for entity in entities if entity.type == entity_type), None)


def _typed(value: str, schema: Mapping[str, Any]) -> Any:
    """An entity's value as the parameter's type wants it; as text where it does not fit, for the schema to refuse."""
    convert = {"integer": int, "number": float}.get(schema.get("type", ""), str)
    try:
        return convert(value)
    except ValueError:
        return value
