"""greeter among all services of one process: met through `inproc:`, as the others meet it."""

from myriad.greeter.v1 import greeter_pb2, greeter_pb2_grpc
from services.kit.app import Kit
from services.kit.clients import INPROC
from services.kit.telemetry import open_telemetry
from services.vertical.app import build, load_configs
from tests.support.process import NO_STORE


async def test_one_process_answers_greeter_without_a_socket() -> None:
    kit = Kit(open_telemetry("vertical", "", 0.0), None)
    apps = await build(load_configs({"MYRIAD_GREETER_NOON": "24", **NO_STORE}), kit)
    for app in apps:
        kit.registry(app)
    client = kit.network.client("greeter", INPROC)
    stub = greeter_pb2_grpc.GreeterServiceStub(client.channel)
    reply = await client.unary(stub.Greet, greeter_pb2.GreetRequest(person="Ada"), timeout=5)
    assert reply.text == "Good morning, Ada."
    await kit.network.close()
    for app in apps:
        for closer in reversed(app.closers):
            await closer()
