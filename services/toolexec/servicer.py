"""The contract of toolexec, on top of its decisions."""

from datetime import timedelta
from types import MappingProxyType
from typing import Protocol

from google.protobuf.json_format import ParseDict

from myriad.common.v1 import tool_pb2
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.call import current_call, current_principal
from services.toolexec.core.background import BackgroundTools
from services.toolexec.core.callbacks import CallbackSender
from services.toolexec.core.execution import Execution, Executor
from services.toolexec.domain import (
    Background,
    CallKey,
    ClientCall,
    FunctionCall,
    HttpCall,
    Outcome,
    SideEffect,
    State,
    Tool,
)

_SIDE_EFFECTS = MappingProxyType(
    {
        SideEffect.READ: tool_pb2.SIDE_EFFECT_READ,
        SideEffect.IDEMPOTENT: tool_pb2.SIDE_EFFECT_IDEMPOTENT,
        SideEffect.SIDE_EFFECT: tool_pb2.SIDE_EFFECT_SIDE_EFFECT,
    }
)
_STATES = MappingProxyType(
    {
        State.RUNNING: toolexec_pb2.EXECUTION_STATE_RUNNING,
        State.DONE: toolexec_pb2.EXECUTION_STATE_DONE,
        State.FAILED: toolexec_pb2.EXECUTION_STATE_FAILED,
        State.CANCELLED: toolexec_pb2.EXECUTION_STATE_CANCELLED,
    }
)


class ToolExecServicer(toolexec_pb2_grpc.ToolExecServiceServicer):
    """One method per RPC."""

    def __init__(self, executor: Executor, background: BackgroundTools, callbacks: CallbackSender) -> None:
        """Asks these."""
        self._executor = executor
        self._background = background
        self._callbacks = callbacks

    async def ListTools(
        self, request: toolexec_pb2.ListToolsRequest, context: object
    ) -> toolexec_pb2.ListToolsResponse:
        """The tools the caller may use."""
        tools = await self._executor.tools(current_principal(), request.agent.name, request.agent.revision)
        return toolexec_pb2.ListToolsResponse(tools=[_message(tool) for tool in tools])

    async def Execute(self, request: toolexec_pb2.ExecuteRequest, context: object) -> toolexec_pb2.ExecuteResponse:
        """Runs one tool."""
        executed = await self._executor.execute(current_principal(), _execution(request))
        response = _response(executed.outcome)
        response.replayed = executed.replayed
        return response

    async def StartExecution(
        self, request: toolexec_pb2.StartExecutionRequest, context: object
    ) -> toolexec_pb2.StartExecutionResponse:
        """Begins a tool in the background."""
        execution = _execution(request.call)
        key = _key(request.call)
        found = await self._background.start(current_principal(), execution, request.tool_call_id)
        return toolexec_pb2.StartExecutionResponse(execution=_background(key, found))

    async def GetExecution(
        self, request: toolexec_pb2.GetExecutionRequest, context: object
    ) -> toolexec_pb2.GetExecutionResponse:
        """How far a tool in the background is."""
        key = _key(request)
        found = await self._background.get(current_principal(), key)
        return toolexec_pb2.GetExecutionResponse(execution=_background(key, found))

    async def CancelExecution(
        self, request: toolexec_pb2.CancelExecutionRequest, context: object
    ) -> toolexec_pb2.CancelExecutionResponse:
        """Stops a tool in the background."""
        await self._background.cancel(current_principal(), _key(request))
        return toolexec_pb2.CancelExecutionResponse()

    async def CheckCallback(
        self, request: toolexec_pb2.CheckCallbackRequest, context: object
    ) -> toolexec_pb2.CheckCallbackResponse:
        """Whether an address may be called back."""
        await self._callbacks.check(current_principal(), request.callback_url)
        return toolexec_pb2.CheckCallbackResponse()


class _Named(Protocol):
    """What names a call of a tool."""

    @property
    def run_id(self) -> str:
        """The run."""

    @property
    def tool(self) -> str:
        """The tool."""

    @property
    def idempotency_key(self) -> str:
        """The call."""


def _key(request: _Named) -> CallKey:
    return CallKey(request.run_id, request.tool, request.idempotency_key)


def _execution(request: toolexec_pb2.ExecuteRequest) -> Execution:
    call = current_call()
    return Execution(
        agent=request.agent.name,
        revision=request.agent.revision,
        tool=request.tool,
        arguments_json=request.arguments_json,
        run_id=request.run_id,
        idempotency_key=request.idempotency_key,
        remaining=call.remaining() if call else None,
        approval=request.approval,
    )


def _response(outcome: Outcome) -> toolexec_pb2.ExecuteResponse:
    return toolexec_pb2.ExecuteResponse(
        result_json=outcome.result_json, is_error=outcome.is_error, duration=timedelta(seconds=outcome.duration)
    )


def _background(key: CallKey, found: Background) -> toolexec_pb2.Execution:
    answered = found.outcome if found.state is State.DONE else None
    return toolexec_pb2.Execution(
        run_id=key.run_id,
        idempotency_key=key.idempotency_key,
        tool=key.tool,
        state=_STATES[found.state],
        response=_response(answered) if answered else None,
        reason=found.reason,
    )


def _message(tool: Tool) -> tool_pb2.Tool:
    message = tool_pb2.Tool(
        name=tool.name,
        description=tool.description,
        side_effect=_SIDE_EFFECTS[tool.side_effect],
        timeout=timedelta(seconds=tool.timeout),
        roles=sorted(tool.roles),
        background=tool.background,
    )
    if tool.parameters is not None:
        ParseDict(dict(tool.parameters), message.parameters)
    match tool.call:
        case HttpCall():
            message.http.CopyFrom(_http(tool.call))
        case FunctionCall():
            message.builtin.function = tool.call.function
        case ClientCall():
            message.client.SetInParent()
    return message


def _http(call: HttpCall) -> tool_pb2.HttpTool:
    return tool_pb2.HttpTool(
        method=f"HTTP_METHOD_{call.method}",
        endpoint=call.endpoint,
        url=call.url,
        response=dict(call.response),
        max_response_bytes=call.max_response_bytes,
        idempotency_key=call.idempotency_key,
    )
