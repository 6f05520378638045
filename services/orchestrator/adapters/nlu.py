"""The nlu service."""

from myriad.nlu.v1 import nlu_pb2, nlu_pb2_grpc
from services.kit.clients import Client
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.turn import Complexity, Entity, Understanding


class NluClient:
    """`ports.Nlu` over gRPC."""

    def __init__(self, client: Client, timeout_s: float) -> None:
        """Calls over `client`, and waits `timeout_s` seconds."""
        self._client = client
        self._timeout_s = timeout_s
        self._stub = nlu_pb2_grpc.NluServiceStub(client.channel)

    async def analyze(self, agent: Agent, text: str) -> Understanding:
        """What a text means to an agent."""
        request = nlu_pb2.AnalyzeRequest(agent={"name": agent.name, "revision": agent.revision}, text=text)
        reply = await self._client.unary(self._stub.Analyze, request, timeout=self._timeout_s)
        complexity = reply.complexity
        return Understanding(
            intents=tuple((intent.name, intent.confidence) for intent in reply.intents),
            out_of_scope=reply.out_of_scope,
            entities=tuple(Entity(each.type, each.text, each.start, each.end, each.value) for each in reply.entities),
            complexity=Complexity(complexity.score, complexity.tools, complexity.multi_step, complexity.reasoning),
            language=reply.language,
            embedding=reply.embedding,
        )
