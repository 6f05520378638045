"""The contract: messages in, the decision of the core, messages out."""

from myriad.greeter.v1 import greeter_pb2, greeter_pb2_grpc
from services.greeter.core import Greeter


class GreeterServicer(greeter_pb2_grpc.GreeterServiceServicer):
    """myriad.greeter.v1.GreeterService."""

    def __init__(self, greeter: Greeter) -> None:
        """Answers with what it says."""
        self._greeter = greeter

    async def Greet(self, request: greeter_pb2.GreetRequest, context: object) -> greeter_pb2.GreetResponse:
        """Greets one person."""
        return greeter_pb2.GreetResponse(text=self._greeter.greet(request.person))
