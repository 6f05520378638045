"""No error tells of classes, modules, files, hosts or stacks: of bad requests, of what breaks, of what is away."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from myriad.common.v1 import tool_pb2
from myriad.memory.v1 import memory_pb2 as memory
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from myriad.toolexec.v1 import toolexec_pb2 as toolexec
from services.kit.app import App, Kit
from services.kit.call import Principal
from services.kit.clients import INPROC
from services.kit.grpc_server import grpc_server
from services.kit.interceptors.identity import metadata_of
from services.kit.status import from_rpc_error
from services.kit.telemetry import open_telemetry
from services.kit.topology import SERVICES
from services.orchestrator import app as orchestrator_app
from services.orchestrator.config import Config as OrchestratorConfig
from services.vertical.app import build, load_configs
from tests.security.test_keys import HOSTILE, UNPRINTABLE, ids_in, with_id
from tests.security.world import Refusal, World, somebody, tool_agent
from tests.support.http_server import broken_off, garbage
from tests.support.leaks import leaks
from tests.support.ports import free_address
from tests.support.requests import ROWS, Names, method_of, methods, path, service_of

BODIES = 40
"""Random bodies for each RPC."""


def told(refused: Refusal) -> str:
    """All that a refusal says."""
    return " · ".join([refused.message, refused.reason, str(refused.fields), str(refused.metadata)])


async def raw(channel: Any, method: MethodDescriptor, body: bytes, metadata: list[tuple[str, str]]) -> Refusal | None:
    """How a body is refused that no stub would send."""
    call = channel.unary_stream if method.server_streaming else channel.unary_unary
    try:
        asked = call(path(method), bytes, bytes)(body, metadata=metadata, timeout=5)
        if method.server_streaming:
            async for _ in asked:
                break
            asked.cancel()
        else:
            await asked
    except grpc.aio.AioRpcError as error:
        found = from_rpc_error(error, "it")
        return Refusal(
            error.code().name, found.reason, f"{error.details()} {found.message}", found.fields, found.metadata
        )
    return None


@pytest.mark.parametrize("method", methods(), ids=[f"{service_of(each)}.{each.name}" for each in methods()])
async def test_what_is_refused_says_nothing_of_how_it_is_made(world: World, method: MethodDescriptor) -> None:
    caller, request = somebody(), ROWS[path(method)].build(Names.absent())
    refusals = [await world.ask(caller, method, request)]
    for field in ids_in(request):
        for value in ("a b", "x" * 300, "a\x00b"):
            refusals.append(await world.ask(caller, method, with_id(request, field, value)))
    for name in [*HOSTILE, *UNPRINTABLE]:
        # Tenants of its own: those of these very names are looked at elsewhere.
        refusals.append(await world.ask(Principal(f"errors{name}"[:256], name), method, request))
    chance, body = random.Random(66), request.SerializeToString()
    channel = world.kit.network.client(service_of(method), INPROC).channel
    for _ in range(BODIES):
        mutated = bytearray(body or b"\n\x04abcd")
        for _ in range(chance.randint(1, 3)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        refusals.append(await raw(channel, method, bytes(mutated), metadata_of(caller, None)))  # type: ignore[arg-type]
    found = [told(each) for each in refusals if isinstance(each, Refusal)]
    assert found
    assert {text: leaks(text) for text in found if leaks(text)} == {}
    assert not [each for each in refusals if isinstance(each, Refusal) and each.code in {"INTERNAL", "UNKNOWN"}]


async def test_a_turn_that_fails_says_nothing_of_how_it_is_made(world: World) -> None:
    """Of the model and of tools, whatever they answer: as an error of the run, or of the tool."""
    owner, crm = somebody(), world.crm
    crm.answers |= {"/broken": broken_off, "/garbage": garbage}
    tools = [
        tool_pb2.Tool(
            name=name,
            description="Gets.",
            side_effect="SIDE_EFFECT_READ",
            http=tool_pb2.HttpTool(endpoint="crm" if url.startswith("/") else "", url=url),
        )
        for name, url in {
            "broken": "/broken",
            "garbage": "/garbage",
            "private": "http://10.0.0.1/x",
            "port": "http://8.8.8.8:22/",
            "template": "/{order}",
        }.items()
    ]
    tools.append(
        tool_pb2.Tool(
            name="absent", description="Is not there.", side_effect="SIDE_EFFECT_READ", builtin={"function": "no"}
        )
    )
    await world.told(owner, "memory.PutAgent", memory.PutAgentRequest(agent=tool_agent("fails", *tools)))
    said = []
    calls = [{"name": tool.name, "arguments": {}} for tool in tools] + [{"name": "unknown", "arguments": "{"}]
    scripts = [f'#sim {{"tool_calls": [{{"name": "{each["name"]}"}}], "then": {{"text": "ok"}}}}' for each in calls]
    scripts += ['#sim {"error": "boom in model.py at 10.0.0.1:8001"}', '#sim {"nonsense": 1}']
    for script in scripts:
        made = await world.told(owner, "memory.CreateSession", memory.CreateSessionRequest(agent="fails"))
        asked = run_pb2.RunTurnRequest(session_id=made.session.session_id, input=script)
        events = await world.ask(owner, method_of("orchestrator.RunTurn"), asked)
        assert not isinstance(events, Refusal)
        for event in events:
            said += [event.failed.error.message, event.tool_finished.result_json, event.tool_finished.reason]
            said.append(event.degraded.reason)
    for tool in tools:
        request = toolexec.ExecuteRequest(
            agent={"name": "fails"}, tool=tool.name, arguments_json="{", run_id="s.1", idempotency_key="k"
        )
        for arguments in ("{", "{}", '{"order": "../x"}', "[]"):
            request.arguments_json = arguments
            refused = await world.ask(owner, method_of("toolexec.Execute"), request)
            said += [told(refused)] if isinstance(refused, Refusal) else [refused[0].result_json]
    assert sum(bool(text) for text in said) > 20
    assert {text: leaks(text) for text in said if leaks(text)} == {}


@pytest.fixture(scope="module")
async def deserted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kit]:
    """The services, and nothing behind them."""
    nobody = free_address()
    environ = {f"MYRIAD_{service}_REDIS_URL": f"redis://{nobody}" for service in ("MEMORY", "ORCHESTRATOR", "TOOLEXEC")}
    environ |= {f"MYRIAD_{each}_TRITON_ADDRESS": nobody for each in ("NLU", "ORCHESTRATOR", "RETRIEVAL")}
    folder: Path = tmp_path_factory.mktemp("deserted")
    environ |= {"MYRIAD_RETRIEVAL_MILVUS_URI": f"http://{nobody}", "MYRIAD_NLU_MODELS_DIR": str(folder)}
    kit = Kit(open_telemetry("vertical", "", 0.0), None)
    apps = await build(load_configs(environ), kit)
    for app in apps:
        kit.registry(app)
    yield kit
    for app in apps:
        for closer in reversed(app.closers):
            await closer()
    await kit.network.close()


NEEDY = [each for each in methods() if SERVICES[service_of(each)].needs and each.name != "CheckCallback"]
"""An address that a callback may go to is known without asking anybody but the names of the outside."""


@pytest.mark.parametrize("method", NEEDY, ids=[f"{service_of(each)}.{each.name}" for each in NEEDY])
async def test_when_all_behind_it_is_away_an_error_names_nothing_of_it(
    world: World, deserted: Kit, method: MethodDescriptor
) -> None:
    refused = await replace(world, kit=deserted).ask(somebody(), method, ROWS[path(method)].build(Names.absent()))
    assert isinstance(refused, Refusal)
    assert refused.code in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, refused
    assert leaks(told(refused)) == [], refused


ORCHESTRATORS = [each for each in methods() if service_of(each) == "orchestrator"]


@pytest.mark.parametrize("method", ORCHESTRATORS, ids=[each.name for each in ORCHESTRATORS])
async def test_when_its_peers_are_away_an_error_does_not_say_where_they_were(
    world: World, method: MethodDescriptor
) -> None:
    """What a channel says of itself names hosts."""
    nobody = free_address()
    addresses: dict[str, Any] = {
        f"{peer}_address": nobody for peer in ("memory", "nlu", "retrieval", "toolexec", "triton")
    }
    kit = Kit(open_telemetry("orchestrator", "", 0.0), None)
    app = await orchestrator_app.build(OrchestratorConfig(redis_url=f"redis://{nobody}", **addresses), kit)
    kit.registry(app)
    refused = await replace(world, kit=kit).ask(somebody(), method, ROWS[path(method)].build(Names.absent()))
    for closer in reversed(app.closers):
        await closer()
    await kit.network.close()
    assert isinstance(refused, Refusal)
    assert refused.code == "UNAVAILABLE"
    assert leaks(told(refused)) == [], refused


@pytest.mark.parametrize("kind", ["inproc", "socket"])
async def test_an_error_that_nobody_expected_leaves_without_detail(kind: str) -> None:
    """And the control: `leaks` sees each of the things that were in it."""
    secret = (
        "KeyError in services.memory.core at /srv/app/core.py line 7: redis://10.0.0.1:6379 <Redis object at 0x7f00>"
    )

    class Broken(orchestrator_pb2_grpc.OrchestratorServiceServicer):
        async def GetRun(self, request: object, context: object) -> Any:
            raise RuntimeError(secret)

    kit = Kit(open_telemetry("orchestrator", "", 0.0), None)
    add = orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server
    registry = kit.registry(App("orchestrator", lambda made: add(cast(Any, Broken)(), made)))
    server, _ = grpc_server([registry])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    channel = kit.network.client("orchestrator", INPROC if kind == "inproc" else address).channel
    get_run = method_of("orchestrator.GetRun")
    request = ROWS[path(get_run)].build(Names.absent())
    refused = await raw(channel, get_run, request.SerializeToString(), metadata_of(somebody(), None))
    await kit.network.close()
    await server.stop(0)
    assert refused == Refusal("INTERNAL", "INTERNAL", "internal error internal error", {}, {})
    assert {each.partition(":")[0] for each in leaks(secret)} == {"class", "module", "stack", "file", "host", "backend"}
