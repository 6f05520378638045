"""A backend that always fails is not asked three times as often: retries have one layer and one budget."""

from contextlib import asynccontextmanager

import grpc
import pytest

from myriad.nlu.v1 import nlu_pb2 as pb
from myriad.nlu.v1 import nlu_pb2_grpc
from services.kit import clients
from services.kit.clients import Network, service_config
from services.kit.errors import ServiceUnavailable

REQUESTS = 200


class Failing(nlu_pb2_grpc.NluServiceServicer):
    """Fails as a proxy or a dying process does: UNAVAILABLE, with nothing said of retries. Counts by request."""

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}
        self.fails = True

    async def Analyze(self, request, context):
        self.attempts[request.text] = self.attempts.get(request.text, 0) + 1
        if self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return pb.AnalyzeResponse()


@asynccontextmanager
async def failing():
    servicer, server, network = Failing(), grpc.aio.server(), Network(None)
    nlu_pb2_grpc.add_NluServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    client = network.client("nlu", address)
    stub = nlu_pb2_grpc.NluServiceStub(client.channel)

    async def ask(text):
        await client.unary(stub.Analyze, pb.AnalyzeRequest(text=text), timeout=5)

    yield servicer, ask
    await network.close()
    await server.stop(0)


async def fail_all(ask, count=REQUESTS):
    for number in range(count):
        with pytest.raises(ServiceUnavailable):
            await ask(str(number))


async def test_attempts_stay_within_a_fifth_over_requests_and_three_for_one():
    async with failing() as (servicer, ask):
        await fail_all(ask)
    assert sum(servicer.attempts.values()) <= 1.2 * REQUESTS
    assert max(servicer.attempts.values()) == 3


async def test_the_budget_fills_again_when_the_backend_answers():
    async with failing() as (servicer, ask):
        await fail_all(ask, 20)
        servicer.fails = False
        for number in range(80):
            await ask(f"good {number}")
        servicer.fails = True
        with pytest.raises(ServiceUnavailable):
            await ask("again")
    assert servicer.attempts["again"] > 1


async def test_control_without_a_budget_every_request_is_three(monkeypatch):
    def without_budget(service):
        return {key: value for key, value in service_config(service).items() if key != "retryThrottling"}

    monkeypatch.setattr(clients, "service_config", without_budget)
    async with failing() as (servicer, ask):
        await fail_all(ask, 10)
    assert sum(servicer.attempts.values()) == 30
