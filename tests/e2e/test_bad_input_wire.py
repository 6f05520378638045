"""Requests broken on the wire, to every method of every service: one of a few answers, and nothing breaks.

Straight to the services, past Envoy: over sockets to the five processes, and within one process to the same handlers.
`make chaos` sends a hundred thousand to each service.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import structlog
from google.protobuf import struct_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.status_pb2 import Status

from myriad.common.v1 import agent_pb2, tool_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2, sessions_pb2
from myriad.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.dev.environment import Site, vertical_environment
from services.dev.stack import Stack
from services.dev.users import make_users
from services.kit import topology
from services.kit.app import KitConfig, open_kit
from services.kit.call import Principal
from services.kit.clients import INPROC
from services.kit.contracts import contract
from services.kit.interceptors.identity import metadata_of
from services.vertical.app import build, load_configs
from tests.support.hostile import Known, examples, field, requests, wrong_with
from tests.support.ports import free_address
from tests.support.requests import ROWS

COUNT = {"sockets": 60, "inproc": 30}
CHAOS_COUNT = 100_000
BATCH = 2_000
AT_ONCE = 8
TIMEOUT_S = 20.0
USUAL = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "ABORTED", "FAILED_PRECONDITION")
ALLOWED = {
    # Tools may ask for roles, have limits, and fail: that is their affair, and its reason says so.
    "ExecuteRequest": (*USUAL, "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"),
    # A tenant may have so many agents and collections.
    "PutAgentRequest": (*USUAL, "RESOURCE_EXHAUSTED"),
    "CreateCollectionRequest": (*USUAL, "RESOURCE_EXHAUSTED"),
    # A budget that was set here may be used up, and a session's line may be full.
    "BeginTurnRequest": (*USUAL, "RESOURCE_EXHAUSTED"),
    "RunTurnRequest": (*USUAL, "RESOURCE_EXHAUSTED"),
    "CreateRunRequest": (*USUAL, "RESOURCE_EXHAUSTED"),
    # A token that was made up is none.
    "RespondToRunRequest": (*USUAL, "PERMISSION_DENIED"),
}
DETAILS = "grpc-status-details-bin"


def methods(service: str) -> list[MethodDescriptor]:
    return list(contract(topology.SERVICES[service].proto_service).methods)


EVERY = [(service, method) for service in topology.SERVICES for method in methods(service)]
PUT_AGENT = next(method for service, method in EVERY if method.name == "PutAgent")
NAMES = [f"{service}.{method.name}" for service, method in EVERY]


@dataclass
class Way:
    """A way to the five services, and what the tenant of the test has there."""

    kind: str
    channels: dict[str, grpc.aio.Channel]
    metadata: list[tuple[str, str]]
    complaints: Callable[[], list[str]]
    """What the services logged that they should not have, since this was asked last."""

    known: Known

    async def send(self, service: str, method: MethodDescriptor, body: bytes) -> tuple[str, Status]:
        """How a request is answered: the code, and the status with its details."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        channel = self.channels[service]
        call = channel.unary_stream if method.server_streaming else channel.unary_unary
        made = call(path, bytes, bytes)(body, metadata=self.metadata, timeout=TIMEOUT_S)
        try:
            if method.server_streaming:
                async for _ in made:
                    if ROWS[path].most == 1:  # it has no end
                        break
                made.cancel()
            else:
                await made
        except grpc.aio.AioRpcError as error:
            details = [value for key, value in error.trailing_metadata() or () if key == DETAILS]
            status = Status.FromString(details[0]) if details else Status()
            status.message = error.details() or ""
            return error.code().name, status
        return "OK", Status()


@asynccontextmanager
async def over_sockets(stack: Stack) -> AsyncIterator[tuple[dict[str, grpc.aio.Channel], Callable[[], list[str]]]]:
    """To the processes of the stack; complaints are read from their logs."""
    logs = [stack.folder.log(name) for name in topology.SERVICES]
    read = {log: log.stat().st_size for log in logs}
    before = {name: part.restarts for name, part in stack.state.parts.items()}

    def complaints() -> list[str]:
        found = []
        for log in logs:
            with log.open("rb") as file:
                file.seek(read[log])
                text = file.read()
            read[log] += len(text)
            found += [
                line for line in text.decode(errors="replace").splitlines() if '"error"' in line or "Trace" in line
            ]
        restarted = [name for name, part in stack.state.parts.items() if part.restarts > before[name]]
        return found + [f"{name} died" for name in restarted]

    async with AsyncExitStack() as closing:
        channels = {
            name: await closing.enter_async_context(grpc.aio.insecure_channel(stack.address(name)))
            for name in topology.SERVICES
        }
        yield channels, complaints


@asynccontextmanager
async def within_the_process(
    stack: Stack,
) -> AsyncIterator[tuple[dict[str, grpc.aio.Channel], Callable[[], list[str]]]]:
    """To the same handlers in this process, on the stack's engines; complaints are captured."""
    users = make_users(stack.folder.store)
    site = Site(stack.state.addresses, stack.folder.models, ("llm", "sim_llm"), passwords=users)
    kit = open_kit(KitConfig(auth="insecure-dev"), "vertical")
    async with AsyncExitStack() as closing:
        closing.callback(kit.telemetry.close)
        closing.push_async_callback(kit.network.close)
        for app in await build(load_configs(vertical_environment(site)), kit):
            for closer in app.closers:
                closing.push_async_callback(closer)
            kit.registry(app)
        logged = closing.enter_context(structlog.testing.capture_logs())

        def complaints() -> list[str]:
            found = [str(entry) for entry in logged if entry["log_level"] in {"error", "critical"}]
            logged.clear()
            return found

        yield {name: kit.network.client(name, INPROC).channel for name in topology.SERVICES}, complaints


@pytest.fixture(scope="module", params=["sockets", "inproc"])
async def way(request, stack) -> AsyncIterator[Way]:
    opened = over_sockets if request.param == "sockets" else within_the_process
    mallory = Principal(f"hostile-{uuid.uuid4().hex}", "mallory", frozenset({"admin", "operator"}))
    metadata = metadata_of(mallory, None)
    async with opened(stack) as (channels, complaints):
        yield Way(request.param, channels, metadata, complaints, await furnished(channels, metadata))


async def furnished(channels: dict[str, grpc.aio.Channel], metadata: list[tuple[str, str]]) -> Known:
    """Gives the tenant an agent, sessions, a run and a collection; what they are called."""
    orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(channels["orchestrator"])
    retrieval = retrieval_pb2_grpc.RetrievalServiceStub(channels["retrieval"])
    await put_agent(channels["memory"], metadata, agent_pb2.Agent(name="player"))
    sessions = [
        (
            await orchestrator.CreateSession(sessions_pb2.CreateSessionRequest(agent="player"), metadata=metadata)
        ).session.session_id
        for _ in range(4)
    ]
    turn = run_pb2.RunTurnRequest(session_id=sessions[0], input="hello")
    events = [event async for event in orchestrator.RunTurn(turn, metadata=metadata)]
    collection = retrieval_pb2.Collection(name="help")
    await retrieval.CreateCollection(retrieval_pb2.CreateCollectionRequest(collection=collection), metadata=metadata)
    runs = [events[0].run_id, f"{sessions[0]}.2", "absent.1"]
    return {
        "session_id": [*sessions[:3], "absent"],
        "DeleteSessionRequest.session_id": [sessions[3], "absent"],
        "run_id": runs,
        # A run that memory begins in the name of nobody is never ended, so it is not watched either.
        "WatchRunRequest.run_id": [runs[0], runs[2]],
        "agent": ["player", "player", "fuzzed", "absent"],
        "AgentRef.name": ["player", "player", "fuzzed", "absent"],
        "Agent.name": ["fuzzed"],
        "Tool.name": ["calculate", "other"],
        "ExecuteRequest.tool": ["calculate", "other", "absent"],
        "ToolBinding.name": ["calculate"],
        "BuiltinTool.function": ["calculator", "absent"],
        # Nothing that is sent here may leave this machine.
        "HttpTool.url": ["/x/{a}", "http://127.0.0.1:9/{a}", "http://[::1]/"],
        "arguments_json": ['{"expression": "1+1"}', "{}", "", "[", '{"expression": "9**9**9**9"}', "[" * 5_000],
        "revision": [0, 0, 1, 2**32 - 1],
        "collection": ["help", "other"],
        "collections": ["help", "other"],
        "Collection.name": ["help", "other"],
        "DeleteCollectionRequest.collection": ["other", "absent"],
        "document_id": ["d1", "d2"],
        "document_ids": ["d1", "d2"],
        "score": [1, 5, 9],
        "SubmitFeedbackRequest.text": ["well", "\x00"],
        "approval_token": ["t1", "no token"],
        "RunTurnRequest.input": ["hello", "#sim {", "#sim []", '#sim {"text": 1}', "\x00", " "],
        "AnalyzeRequest.text": ["hello", "on 2026-02-30 I paid 1e400 EUR", "\x00", " "],
        "SearchRequest.query": ["hello", '"', "", 'x" or tenant != "'],
        "embedding": [[], [0.05] * 384, [0.05] * 384, [1.0], [float("nan")] * 384],
        "persona": ["You help."],
        "description": ["It helps."],
        "examples": [["hi", "hello"], ["hi", "hello"], ["hi"]],
        "patterns": ["a+", "(a)|b", "(", "(?=x)", "a{1000}"],
        "Intent.name": ["ask"],
        "EntityType.name": ["thing"],
        "side_effect": [1, 1, 2, 0],
        "fencing_token": [1, 2, 3, 2**64 - 1],
        "first_sequence": [1, 2, 2**32 - 1],
    }


async def put_agent(channel: grpc.aio.Channel, metadata: list[tuple[str, str]], agent: agent_pb2.Agent) -> None:
    """Writes an agent that the scripted model plays, with a calculator."""
    agent.MergeFrom(agent_pb2.Agent(persona="You play scripts.", model=agent_pb2.ModelPolicy(model="sim_llm")))
    if not agent.tools:
        tool = agent.tools.add(name="calculate", description="Calculates.", side_effect=tool_pb2.SIDE_EFFECT_READ)
        tool.builtin.function = "calculator"
        tool.parameters.update({"type": "object"})
    request = memory_pb2.PutAgentRequest(agent=agent)
    await memory_pb2_grpc.MemoryServiceStub(channel).PutAgent(request, metadata=metadata)


async def answers(way: Way, service: str, method: MethodDescriptor, bodies: list[bytes]) -> dict[str, int]:
    """Sends requests, a few at once. Returns how often each code came."""
    counts: dict[str, int] = {}
    waiting: Iterator[bytes] = iter(bodies)
    allowed = ALLOWED.get(method.input_type.name, USUAL)

    async def sender() -> None:
        for body in waiting:
            code, status = await way.send(service, method, body)
            counts[code] = counts.get(code, 0) + 1
            wrong = wrong_with(code, status, allowed)
            assert not wrong, f"{method.name} of {body[:400]!r} is {wrong}"

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(sender())
    return counts


@pytest.mark.parametrize(("service", "method"), EVERY, ids=NAMES)
async def test_a_request_broken_on_the_wire_breaks_nothing(way, service, method):
    counts = await answers(way, service, method, examples(requests(method.input_type, way.known), COUNT[way.kind]))
    assert way.complaints() == []
    assert counts.get("INVALID_ARGUMENT"), counts
    assert len(counts) > 1, f"every request was refused as malformed: {counts}"


async def test_control_a_handler_without_our_checks_breaks():
    """What a method of gRPC does with the same requests when it stands alone."""

    async def bare(request, _context):
        session, number = request.run_id.split(".")
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=f"{session}.{int(number)}"))

    (method,) = [each for each in methods("orchestrator") if each.name == "GetRun"]
    handler = grpc.unary_unary_rpc_method_handler(
        bare, run_pb2.GetRunRequest.FromString, run_pb2.GetRunResponse.SerializeToString
    )
    server, address = grpc.aio.server(), free_address()
    service = topology.SERVICES["orchestrator"].proto_service
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"GetRun": handler}),))
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            alone = Way("alone", {"orchestrator": channel}, [], list, {})
            bodies = examples(requests(method.input_type, {"run_id": ["s.1"]}), COUNT["sockets"])
            found = {(await alone.send("orchestrator", method, body))[0] for body in bodies}
    finally:
        await server.stop(0)
    assert {"OK", "UNKNOWN"} <= found


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("service", "method"), EVERY, ids=NAMES)
async def test_a_hundred_thousand_broken_requests_break_nothing(way, service, method):
    first = int.from_bytes(os.urandom(4), "big")
    strategy = requests(method.input_type, way.known)
    for batch in range(CHAOS_COUNT // len(methods(service)) // BATCH + 1):
        bodies = await asyncio.to_thread(examples, strategy, BATCH, first + batch)
        await answers(way, service, method, bodies)
        assert way.complaints() == [], f"of the examples of number {first + batch}"


@pytest.mark.parametrize("depth", [0, 1, 10, 20, 30, 31, 32, 33, 34, 40, 60, 99, 100, 101, 300, 1_000, 5_000])
async def test_a_schema_however_deep_is_taken_or_refused_and_read_again(way, depth):
    parameters = field(1, field(1, b"a") + field(2, field(3, b"x")))  # {"a": "x"}
    for _ in range(depth):
        parameters = field(1, field(1, b"a") + field(2, field(5, parameters)))  # {"a": <what was>}
    tool = tool_pb2.Tool(name="t", description="d", side_effect=tool_pb2.SIDE_EFFECT_READ)
    tool.builtin.function = "calculator"
    agent = agent_pb2.Agent(name="deep", persona="p").SerializeToString()
    agent += field(8, tool.SerializeToString() + field(3, parameters))
    code, status = await way.send("memory", PUT_AGENT, field(1, agent))
    assert not wrong_with(code, status, ("OK", "INVALID_ARGUMENT"))
    assert code == ("OK" if depth <= 30 else "INVALID_ARGUMENT") or 30 < depth < 34
    if code == "OK":
        await everyone_reads(way, "deep")
    assert way.complaints() == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e308, -0.0])
async def test_a_schema_with_a_number_that_json_has_not_is_refused_or_read_again(way, number):
    schema = struct_pb2.Struct()
    schema.update({"type": "object", "maxProperties": number})
    agent = agent_pb2.Agent(name="odd", persona="p")
    tool = agent.tools.add(name="t", description="d", side_effect=tool_pb2.SIDE_EFFECT_READ, parameters=schema)
    tool.builtin.function = "calculator"
    code, status = await way.send("memory", PUT_AGENT, memory_pb2.PutAgentRequest(agent=agent).SerializeToString())
    assert not wrong_with(code, status, ("OK", "INVALID_ARGUMENT"))
    if code == "OK":
        await everyone_reads(way, "odd")
    assert way.complaints() == []


async def everyone_reads(way: Way, name: str) -> None:
    """Has each service that reads agents read this one."""
    ref = agent_pb2.AgentRef(name=name)
    toolexec = toolexec_pb2_grpc.ToolExecServiceStub(way.channels["toolexec"])
    await toolexec.ListTools(toolexec_pb2.ListToolsRequest(agent=ref), metadata=way.metadata)
    orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(way.channels["orchestrator"])
    await orchestrator.GetAgent(sessions_pb2.GetAgentRequest(agent=name), metadata=way.metadata)
    session = await orchestrator.CreateSession(sessions_pb2.CreateSessionRequest(agent=name), metadata=way.metadata)
    turn = run_pb2.RunTurnRequest(session_id=session.session.session_id, input="hello")
    events = [event async for event in orchestrator.RunTurn(turn, metadata=way.metadata)]
    assert events[-1].failed.error.code != grpc.StatusCode.INTERNAL.value[0]


def test_the_logs_that_are_looked_at_are_those_of_the_services(stack):
    """A control: an empty folder of logs would hold no complaint."""
    for name in topology.SERVICES:
        log: Path = stack.folder.log(name)
        assert '"listening"' in log.read_text()
