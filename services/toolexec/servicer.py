"""The contract of toolexec, on top of its decisions."""

from datetime import timedelta
from types import MappingProxyType

from google.protobuf.json_format import ParseDict

from myriad.common.v1 import common_pb2
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.call import current_call, current_principal
from services.toolexec.core.execution import Execution, Executor
from services.toolexec.domain import HttpCall, SideEffect, Tool

_SIDE_EFFECTS = MappingProxyType(
    {
        SideEffect.READ: common_pb2.SIDE_EFFECT_READ,
        SideEffect.IDEMPOTENT: common_pb2.SIDE_EFFECT_IDEMPOTENT,
        SideEffect.SIDE_EFFECT: common_pb2.SIDE_EFFECT_SIDE_EFFECT,
    }
)


class ToolExecServicer(toolexec_pb2_grpc.ToolExecServiceServicer):
    """One method per RPC."""

    def __init__(self, executor: Executor) -> None:
        """Asks `executor`."""
        self._executor = executor

    async def ListTools(
        self, request: toolexec_pb2.ListToolsRequest, context: object
    ) -> toolexec_pb2.ListToolsResponse:
        """The tools the caller may use."""
        tools = await self._executor.tools(current_principal(), request.agent.name, request.agent.revision)
        return toolexec_pb2.ListToolsResponse(tools=[_message(tool) for tool in tools])

    async def Execute(self, request: toolexec_pb2.ExecuteRequest, context: object) -> toolexec_pb2.ExecuteResponse:
        """Runs one tool."""
        call = current_call()
        execution = Execution(
            agent=request.agent.name,
            revision=request.agent.revision,
            tool=request.tool,
            arguments_json=request.arguments_json,
            run_id=request.run_id,
            idempotency_key=request.idempotency_key,
            remaining=call.remaining() if call else None,
        )
        executed = await self._executor.execute(current_principal(), execution)
        outcome = executed.outcome
        return toolexec_pb2.ExecuteResponse(
            result_json=outcome.result_json,
            is_error=outcome.is_error,
            duration=timedelta(seconds=outcome.duration),
            replayed=executed.replayed,
        )


def _message(tool: Tool) -> common_pb2.Tool:
    message = common_pb2.Tool(
        name=tool.name,
        description=tool.description,
        side_effect=_SIDE_EFFECTS[tool.side_effect],
        timeout=timedelta(seconds=tool.timeout),
        roles=sorted(tool.roles),
    )
    if tool.parameters is not None:
        ParseDict(dict(tool.parameters), message.parameters)
    if isinstance(tool.call, HttpCall):
        message.http.CopyFrom(_http(tool.call))
    else:
        message.builtin.function = tool.call.function
    return message


def _http(call: HttpCall) -> common_pb2.HttpTool:
    return common_pb2.HttpTool(
        method=f"HTTP_METHOD_{call.method}",
        endpoint=call.endpoint,
        url=call.url,
        response=dict(call.response),
        max_response_bytes=call.max_response_bytes,
        idempotency_key=call.idempotency_key,
    )
