"""The services beside this one, and the model."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from services.orchestrator.domain.agent import Agent, Knowledge, Message, Tool, ToolCall
from services.orchestrator.domain.turn import Chunk, Citation, ToolResult, Understanding


class Agents(Protocol):
    """Agents by name."""

    async def revision(self, name: str, revision: int) -> Agent:
        """One revision.

        Raises:
            AgentNotFound: there is no such revision any more.
        """

    async def latest(self, name: str) -> Agent:
        """The latest revision; at most a second old.

        Raises:
            AgentNotFound: there is none.
        """


class Nlu(Protocol):
    """What users mean."""

    async def analyze(self, agent: Agent, text: str) -> Understanding:
        """What a text means to an agent."""


class Retrieval(Protocol):
    """Facts."""

    async def search(self, knowledge: Knowledge, text: str, embedding: Sequence[float]) -> tuple[Citation, ...]:
        """The facts that match best, best first. Without an embedding the text is embedded there."""


class Tools(Protocol):
    """Things an agent can do."""

    async def execute(
        self, agent: Agent, call: ToolCall, run_id: str, key: str, timeout: float, approval: str = ""
    ) -> ToolResult:
        """Runs a tool, at most once per `key` of a run, and at most once under an approval.

        Raises:
            InvalidToolArguments, ToolNotFound, ToolNotAllowed, ApprovalRequired: it was not run.
            ApprovalInvalid: it was not run now; under this approval it may have been before.
            ExecutionInProgress: the same call is at work.
            ToolTimeout, ToolUnavailable, ToolResponseTooLarge: it was tried.
        """

    async def start(self, agent: Agent, call: ToolCall, run_id: str, key: str, approval: str = "") -> ToolResult | None:
        """Begins a tool that runs in the background, unless it was begun under this key: its result wakes the run.

        Returns:
            What it answered, if it has.

        Raises:
            InvalidToolArguments, ToolNotFound, ToolNotAllowed, ApprovalRequired, ApprovalInvalid: it was not begun.
        """

    async def stop(self, call: ToolCall, run_id: str, key: str) -> None:
        """Stops a tool that runs in the background. Changes nothing when it has ended."""

    async def result(self, call: ToolCall, run_id: str, key: str) -> ToolResult | None:
        """What a tool that runs in the background has answered. None: nothing yet, or it was stopped, or failed.

        Raises:
            ExecutionNotFound: it was never begun, or is forgotten.
        """

    async def check_callback(self, url: str) -> None:
        """Returns when an address may be called back.

        Raises:
            InvalidArgument: it may not, with `callback_url` as its field.
        """


class Model(Protocol):
    """The language model."""

    def chat(
        self, model: str, messages: Sequence[Message], tools: Sequence[Tool], max_tokens: int, temperature: float
    ) -> AsyncGenerator[Chunk]:
        """Streams an answer. Leaving the iteration stops the model.

        Raises:
            ModelUnavailable: the tier does not answer, or is busy.
            ModelFailed: the model answered with an error.
        """
