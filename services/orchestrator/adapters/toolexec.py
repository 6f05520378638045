"""The toolexec service."""

from collections.abc import Mapping
from types import MappingProxyType

from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.clients import Client
from services.kit.errors import ApprovalInvalid, ServiceError, ToolTimeout, ToolUnavailable
from services.orchestrator.domain.agent import Agent, ToolCall
from services.orchestrator.domain.turn import ToolResult

_MARGIN_S = 1.0
_START_S = 5.0
_NOT_RUN = (toolexec_pb2.EXECUTION_STATE_FAILED, toolexec_pb2.EXECUTION_STATE_CANCELLED)
_WHY: Mapping[str, type[ServiceError]] = MappingProxyType(
    {"TOOL_TIMEOUT": ToolTimeout, "EXECUTION_INTERRUPTED": ApprovalInvalid}
)
"""What it means that an execution failed for this reason."""


class ToolExecClient:
    """`ports.Tools` over gRPC."""

    def __init__(self, client: Client) -> None:
        """Calls over `client`."""
        self._client = client
        self._stub = toolexec_pb2_grpc.ToolExecServiceStub(client.channel)

    async def execute(
        self, agent: Agent, call: ToolCall, run_id: str, key: str, timeout: float, approval: str = ""
    ) -> ToolResult:
        """Runs a tool. Waits a second longer than the tool may take, so that toolexec can say what became of it."""
        request = _request(agent, call, run_id, key, approval)
        reply = await self._client.unary(self._stub.Execute, request, timeout=timeout + _MARGIN_S)
        return ToolResult(reply.result_json, reply.is_error)

    async def start(self, agent: Agent, call: ToolCall, run_id: str, key: str, approval: str = "") -> ToolResult | None:
        """Begins a tool that runs in the background."""
        request = toolexec_pb2.StartExecutionRequest(
            call=_request(agent, call, run_id, key, approval), tool_call_id=call.id
        )
        execution = (await self._client.unary(self._stub.StartExecution, request, timeout=_START_S)).execution
        if execution.state in _NOT_RUN:
            raise _WHY.get(execution.reason, ToolUnavailable)("the tool could not be run")
        return _answered(execution)

    async def stop(self, call: ToolCall, run_id: str, key: str) -> None:
        """Stops a tool that runs in the background."""
        request = toolexec_pb2.CancelExecutionRequest(run_id=run_id, tool=call.tool, idempotency_key=key)
        await self._client.unary(self._stub.CancelExecution, request, timeout=_START_S)

    async def result(self, call: ToolCall, run_id: str, key: str) -> ToolResult | None:
        """What a tool that runs in the background has answered."""
        request = toolexec_pb2.GetExecutionRequest(run_id=run_id, tool=call.tool, idempotency_key=key)
        execution = (await self._client.unary(self._stub.GetExecution, request, timeout=_START_S)).execution
        return _answered(execution)

    async def check_callback(self, url: str) -> None:
        """Returns when an address may be called back."""
        request = toolexec_pb2.CheckCallbackRequest(callback_url=url)
        await self._client.unary(self._stub.CheckCallback, request, timeout=_START_S)


def _answered(execution: toolexec_pb2.Execution) -> ToolResult | None:
    if execution.state != toolexec_pb2.EXECUTION_STATE_DONE:
        return None
    return ToolResult(execution.response.result_json, execution.response.is_error)


def _request(agent: Agent, call: ToolCall, run_id: str, key: str, approval: str) -> toolexec_pb2.ExecuteRequest:
    return toolexec_pb2.ExecuteRequest(
        agent={"name": agent.name, "revision": agent.revision},
        tool=call.tool,
        arguments_json=call.arguments_json,
        run_id=run_id,
        idempotency_key=key,
        approval=approval,
    )
