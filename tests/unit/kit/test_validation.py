"""Rules of the contracts that more than one field takes part in."""

import protovalidate
import pytest

from myriad.common.v1 import agent_pb2, tool_pb2
from services.kit.errors import InvalidArgument
from services.kit.interceptors.validation import check

INTENT = {"name": "status", "examples": ["a", "b"], "tool": {"name": "order_status"}}
TOOL = {
    "name": "order_status",
    "description": "Looks an order up.",
    "side_effect": tool_pb2.SIDE_EFFECT_READ,
    "builtin": {"function": "calculator"},
}


def test_an_intent_calls_only_tools_the_agent_has():
    validator = protovalidate.Validator()
    whole = agent_pb2.Agent(name="aura", persona="You help.", intents=[INTENT], tools=[TOOL])
    assert check(validator, whole) is whole
    with pytest.raises(InvalidArgument, match="a tool that the agent does not have"):
        check(validator, agent_pb2.Agent(name="aura", persona="You help.", intents=[INTENT]))


def test_only_the_first_few_of_many_mistakes_are_told():
    wrong = agent_pb2.Agent(name="aura", persona="You help.", intents=[{"name": f"BAD {n}"} for n in range(100)])
    with pytest.raises(InvalidArgument) as raised:
        check(protovalidate.Validator(), wrong)
    assert 0 < len(raised.value.fields) <= 16
