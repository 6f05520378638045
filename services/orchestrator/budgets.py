"""Budgets between the edge and memory, which owns them."""

import json

from google.protobuf import json_format

from myriad.common.v1 import budget_pb2
from myriad.memory.v1 import memory_pb2
from myriad.orchestrator.v1 import budgets_pb2
from services.kit.call import current_call

REMAINING = "x-myriad-budget-remaining"
"""Initial metadata of a reply: what is left of a budget, as `myriad.common.v1.Amounts` in JSON."""


def get_request(request: budgets_pb2.GetBudgetRequest) -> memory_pb2.GetBudgetRequest:
    """What memory is asked."""
    return memory_pb2.GetBudgetRequest(scope=request.scope, session_id=request.session_id, user=request.user)


def set_request(request: budgets_pb2.SetBudgetRequest) -> memory_pb2.SetBudgetRequest:
    """What memory is asked."""
    budget = request.budget if request.HasField("budget") else None
    return memory_pb2.SetBudgetRequest(
        scope=request.scope, session_id=request.session_id, user=request.user, budget=budget
    )


def told(state: budget_pb2.BudgetState) -> budget_pb2.BudgetState:
    """A state, of which the initial metadata of the reply says what remains, when anything is limited."""
    tell(state.remaining if state.HasField("remaining") else None)
    return state


def tell(remaining: budget_pb2.Amounts | None) -> None:
    """Says in the initial metadata of the reply what remains. None: nothing is limited."""
    call = current_call()
    if call is not None and remaining is not None:
        found = json_format.MessageToDict(remaining)
        call.reply_metadata[REMAINING] = json.dumps(found, separators=(",", ":"))
