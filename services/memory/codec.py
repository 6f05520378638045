"""Memory's own types as messages of the contract, and back."""

from types import MappingProxyType

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from myriad.common.v1 import agent_pb2, budget_pb2, common_pb2, scheduling_pb2
from myriad.memory.v1 import memory_pb2, turn_pb2
from services.kit.amounts_codec import read_amounts, write_amounts
from services.kit.errors import InvalidArgument
from services.kit.run_ids import read_run_id, session_of, write_run_id
from services.memory.domain import Agent, Budget, BudgetState, Concurrency, Message, Next, Order, Role, Session

_CONCURRENCY = MappingProxyType(
    {
        scheduling_pb2.CONCURRENCY_UNSPECIFIED: Concurrency.ENQUEUE,
        scheduling_pb2.CONCURRENCY_REJECT: Concurrency.REJECT,
        scheduling_pb2.CONCURRENCY_ENQUEUE: Concurrency.ENQUEUE,
        scheduling_pb2.CONCURRENCY_INTERRUPT: Concurrency.INTERRUPT,
        scheduling_pb2.CONCURRENCY_ROLLBACK: Concurrency.ROLLBACK,
    }
)


def read_message(message: common_pb2.Message) -> Message:
    """What memory keeps of a message."""
    return Message(Role(message.role), _size(message), message.SerializeToString())


def parse_message(data: bytes) -> Message:
    """A message as it was kept."""
    message = common_pb2.Message.FromString(data)
    return Message(Role(message.role), _size(message), data)


def run_that_wrote(session_id: str, message: Message) -> int:
    """Number of the run that wrote a message. 0: none of this session did, it is older than the session."""
    run_id = common_pb2.Message.FromString(message.data).run_id
    written_in, run = read_run_id(run_id) if run_id else ("", 0)
    return run if written_in == session_id else 0


def write_message(message: Message) -> common_pb2.Message:
    """The message that was kept."""
    return common_pb2.Message.FromString(message.data)


def read_order(request: turn_pb2.BeginTurnRequest) -> Order:
    """The run that is to begin.

    Raises:
        InvalidArgument: it is to begin later, but not from the line.
    """
    later = request.HasField("start_after")
    if later and not request.defer:
        raise InvalidArgument("start_after: needs defer", fields={"start_after": "needs defer"})
    due_ms = request.start_after.ToMilliseconds() if later else 0
    wanted = read_amounts(request.wanted)
    return Order(request.record, _CONCURRENCY[request.concurrency], request.defer, due_ms, wanted)


def write_next(ended_run_id: str, due: Next | None) -> turn_pb2.NextRun | None:
    """The run that is due next in the session of one that ended."""
    if due is None:
        return None
    return turn_pb2.NextRun(run_id=write_run_id(session_of(ended_run_id), due.run), record=due.record)


def write_session(session: Session) -> memory_pb2.Session:
    """A session as the contract has it."""
    return memory_pb2.Session(
        session_id=session.session_id,
        agent=session.agent,
        create_time=_time(session.created_ms),
        update_time=_time(session.updated_ms),
        run_count=session.run_count,
        expire_time=_time(session.expires_ms),
    )


def read_agent(agent: agent_pb2.Agent) -> bytes:
    """An agent without what the server sets, in the one way that equal agents share.

    Raises:
        InvalidArgument: a schema holds a number that JSON has not, and nobody could read it.
    """
    for index, tool in enumerate(agent.tools):
        try:
            json_format.MessageToDict(tool.parameters)
        except (json_format.SerializeToJsonError, ValueError):
            field = f"agent.tools[{index}].parameters"
            raise InvalidArgument(f"{field}: must be JSON", fields={field: "must be JSON"}) from None
    content = agent_pb2.Agent()
    content.CopyFrom(agent)
    content.ClearField("revision")
    content.ClearField("create_time")
    return content.SerializeToString(deterministic=True)


def write_agent(agent: Agent) -> agent_pb2.Agent:
    """An agent with what the server sets."""
    message = agent_pb2.Agent.FromString(agent.content)
    message.revision = agent.revision
    message.create_time.CopyFrom(_time(agent.created_ms))
    return message


def read_budget(budget: budget_pb2.Budget) -> Budget:
    """What may be spent."""
    return Budget(read_amounts(budget.limit), budget.window.ToMilliseconds())


def write_budget_state(state: BudgetState) -> budget_pb2.BudgetState:
    """A budget and how much of it is gone."""
    message = budget_pb2.BudgetState(
        spent=write_amounts(state.spent),
        reserved=write_amounts(state.reserved),
        remaining=write_amounts(state.remaining),
    )
    if state.budget:
        message.budget.limit.CopyFrom(write_amounts(state.budget.limit) or budget_pb2.Amounts())
        if state.budget.window_ms:
            message.budget.window.FromMilliseconds(state.budget.window_ms)
    if state.renews_ms:
        message.renew_time.CopyFrom(_time(state.renews_ms))
    return message


def write_renewal(renews_ms: int) -> Timestamp | None:
    """When there is more. 0: never."""
    return _time(renews_ms) if renews_ms else None


def _size(message: common_pb2.Message) -> int:
    size = len(message.content.encode())
    for call in message.tool_calls:
        size += len(call.tool.encode()) + len(call.arguments_json.encode())
    return size


def _time(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
