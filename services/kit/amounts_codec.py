"""Amounts as messages of the contract, and back."""

from myriad.common.v1 import budget_pb2
from services.kit.amounts import Amounts

_FIELDS = ("tokens", "cost_micros", "tool_calls", "milliseconds")


def read_amounts(message: budget_pb2.Amounts) -> Amounts:
    """What a message says."""
    return Amounts(*(getattr(message, each) if message.HasField(each) else None for each in _FIELDS))


def write_amounts(amounts: Amounts) -> budget_pb2.Amounts | None:
    """The message that says the same. None: they say nothing."""
    if not amounts:
        return None
    return budget_pb2.Amounts(
        tokens=amounts.tokens,
        cost_micros=amounts.cost_micros,
        tool_calls=amounts.tool_calls,
        milliseconds=amounts.milliseconds,
    )
