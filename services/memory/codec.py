"""Memory's own types as messages of the contract, and back."""

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from myriad.common.v1 import common_pb2
from myriad.memory.v1 import memory_pb2
from services.kit.errors import InvalidArgument
from services.memory.domain import Agent, Message, Role, Session


def read_message(message: common_pb2.Message) -> Message:
    """What memory keeps of a message."""
    size = len(message.content.encode())
    for call in message.tool_calls:
        size += len(call.tool.encode()) + len(call.arguments_json.encode())
    return Message(Role(message.role), size, message.SerializeToString())


def parse_message(data: bytes) -> Message:
    """A message as it was kept."""
    return read_message(common_pb2.Message.FromString(data))


def write_message(message: Message) -> common_pb2.Message:
    """The message that was kept."""
    return common_pb2.Message.FromString(message.data)


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


def read_agent(agent: common_pb2.Agent) -> bytes:
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
    content = common_pb2.Agent()
    content.CopyFrom(agent)
    content.ClearField("revision")
    content.ClearField("create_time")
    return content.SerializeToString(deterministic=True)


def write_agent(agent: Agent) -> common_pb2.Agent:
    """An agent with what the server sets."""
    message = common_pb2.Agent.FromString(agent.content)
    message.revision = agent.revision
    message.create_time.CopyFrom(_time(agent.created_ms))
    return message


def _time(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
