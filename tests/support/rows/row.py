"""What a row of requests says, and what the rows of several services share."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import Message

from myriad.common.v1 import agent_pb2, tool_pb2


@dataclass(frozen=True)
class Names:
    """What requests are about. Without arguments: of nothing that is there."""

    agent: str
    collection: str
    document: str
    session: str
    run: str
    """A run that has ended."""
    held_run: str
    """A run that holds the session."""
    fencing_token: int
    approval_token: str = "t1"
    """Of what the run asks, when it waits."""

    @property
    def given_up(self) -> str:
        """A run that failed, of which only a letter tells any more."""
        return f"{self.session}.99"

    @classmethod
    def absent(cls) -> "Names":
        """Names of nothing that is there, of the forms that are."""
        session = f"06{secrets.token_hex(13)}0"
        return cls(
            agent=f"a{secrets.token_hex(8)}",
            collection=f"c{secrets.token_hex(8)}",
            document=f"d{secrets.token_hex(8)}",
            session=session,
            run=f"{session}.1",
            held_run=f"{session}.2",
            fencing_token=2,
        )


class Owner(Enum):
    """Who alone finds what a request names."""

    TENANT = "tenant"
    USER = "user"


class Answer(Enum):
    """What an RPC answers to those who cannot find what they name."""

    NOT_FOUND = "not found"
    LEFT_OUT = "a list without it"
    THEIR_OWN = "it makes one of their own"


@dataclass(frozen=True)
class Row:
    """One RPC."""

    build: Callable[[Names], Message]
    owner: Owner
    answer: Answer = Answer.NOT_FOUND
    most: int = 100
    """So many replies of a stream are looked at: 1 of one that has no end."""


def an_agent(name: str) -> agent_pb2.Agent:
    """The agent that the rows are about: a tool that may be repeated, a slow one, and knowledge."""
    tool = tool_pb2.Tool(
        name="calculate",
        description="Calculates.",
        side_effect="SIDE_EFFECT_IDEMPOTENT",
        builtin=tool_pb2.BuiltinTool(function="calculator"),
    )
    tool.parameters.update({"type": "object", "properties": {"expression": {"type": "string"}}})
    slow = tool_pb2.Tool()
    slow.CopyFrom(tool)
    slow.name, slow.background = "calculate_slowly", True
    return agent_pb2.Agent(
        name=name, persona="You help.", tools=[tool, slow], model=agent_pb2.ModelPolicy(model="sim_llm")
    )


PAYS = '#sim {"tool_calls": [{"name": "pay", "arguments": {"expression": "6*7"}}], "then": {"text": "paid"}}'
"""What to say to `a_paying_agent` so that its run waits for an approval; then it says that it has paid."""


def a_paying_agent(name: str) -> agent_pb2.Agent:
    """An agent with a tool that asks somebody first, played by the scripted model."""
    pay = tool_pb2.Tool(
        name="pay", description="Pays.", side_effect="SIDE_EFFECT_SIDE_EFFECT", builtin={"function": "calculator"}
    )
    pay.parameters.update({"type": "object", "properties": {"expression": {"type": "string"}}})
    model = agent_pb2.ModelPolicy(model="sim_llm", tool_choice=agent_pb2.TOOL_CHOICE_MODEL)
    return agent_pb2.Agent(name=name, persona="You pay.", tools=[pay], model=model)


def ref(names: Names) -> agent_pb2.AgentRef:
    """The agent, as a request names it."""
    return agent_pb2.AgentRef(name=names.agent)
