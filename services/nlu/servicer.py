"""`myriad.nlu.v1.NluService`, over core."""

from myriad.nlu.v1 import nlu_pb2, nlu_pb2_grpc
from services.kit.call import current_principal
from services.nlu.core.analyze import Analysis, Analyzer


class NluServicer(nlu_pb2_grpc.NluServiceServicer):
    """Answers the service's methods."""

    def __init__(self, analyzer: Analyzer) -> None:
        """Asks `analyzer`."""
        self._analyzer = analyzer

    async def Analyze(self, request: nlu_pb2.AnalyzeRequest, context: object) -> nlu_pb2.AnalyzeResponse:
        """Analyses one utterance."""
        agent = request.agent
        analysis = await self._analyzer.analyze(current_principal(), agent.name, agent.revision, request.text)
        return _response(analysis)


def _response(analysis: Analysis) -> nlu_pb2.AnalyzeResponse:
    complexity = analysis.complexity
    return nlu_pb2.AnalyzeResponse(
        intents=[nlu_pb2.RankedIntent(name=each.name, confidence=each.confidence) for each in analysis.intents],
        out_of_scope=analysis.out_of_scope,
        entities=[
            nlu_pb2.Entity(type=each.type, text=each.text, start=each.start, end=each.end, value=each.value)
            for each in analysis.entities
        ],
        complexity=nlu_pb2.Complexity(
            score=complexity.score,
            tools=complexity.tools,
            multi_step=complexity.multi_step,
            reasoning=complexity.reasoning,
        ),
        language=analysis.language,
        embedding=analysis.embedding,
        model_version=analysis.model_version,
    )
