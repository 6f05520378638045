"""greeter among all services of one process: met through `inproc:`, as the others meet it."""

from myriad.greeter.v1 import greeter_pb2, greeter_pb2_grpc
from services.kit.app import Kit
from services.kit.clients import INPROC
from services.kit.telemetry import open_telemetry
from services.vertical.app import build, load_configs

NO_STORE = {f"MYRIAD_{name}_REDIS_URL": "redis://127.0.0.1:1" for name in ("MEMORY", "ORCHESTRATOR", "TOOLEXEC")}
"""The default is where a stack of this machine may have one, which asks for a password."""


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
