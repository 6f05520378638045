"""The toolexec service."""

from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.clients import Client
from services.orchestrator.domain import Agent, ToolCall, ToolResult

_MARGIN_S = 1.0


class ToolExecClient:
    """`ports.Tools` over gRPC."""

    def __init__(self, client: Client) -> None:
        """Calls over `client`."""
        self._client = client
        self._stub = toolexec_pb2_grpc.ToolExecServiceStub(client.channel)

    async def execute(self, agent: Agent, call: ToolCall, run_id: str, key: str, timeout: float) -> ToolResult:
        """Runs a tool. Waits a second longer than the tool may take, so that toolexec can say what became of it."""
        request = toolexec_pb2.ExecuteRequest(
            agent={"name": agent.name, "revision": agent.revision},
            tool=call.tool,
            arguments_json=call.arguments_json,
            run_id=run_id,
            idempotency_key=key,
        )
        reply = await self._client.unary(self._stub.Execute, request, timeout=timeout + _MARGIN_S)
        return ToolResult(reply.result_json, reply.is_error)
