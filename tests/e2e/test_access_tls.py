"""TLS on every hop, tokens asked for, and two replicas of each service: one stack with all of it."""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2 as memory
from myriad.memory.v1 import memory_pb2_grpc
from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2, sessions_pb2
from services.dev import certificates, identity, login, readiness
from services.dev.conversation import Conversation
from services.dev.edge import Edge, edge_of, orchestrator_at
from services.dev.environment import grpc_target, reach, replicas
from services.dev.plan import Options
from services.dev.readiness import NotReady, Tls, check
from services.dev.stack import Stack, running_stack
from services.dev.transcript import Transcript
from services.kit import topology
from services.kit.call import Principal
from services.kit.clients import Client
from services.kit.errors import ServiceUnavailable
from services.kit.interceptors.identity import metadata_of
from tests.support import toolchains
from tests.support.client import sim
from tests.support.metrics import metrics_at
from tests.support.requests import an_agent
from tests.support.toolchains import CLIENT_LIST, ClientFailed

ADA = Principal("acme", "ada", frozenset({"clerk"}))
LOOKED_AFTER = 12
"""Turns between two looks at who served."""

ENOUGH = 96
"""Turns after which a replica without one is left out, not unlucky."""

CALCULATION = {
    "tool_calls": [{"name": "calculate", "arguments": {"expression": "6*7"}}],
    "then": {"text": "It is 42."},
}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    work: Path = tmp_path_factory.mktemp("tls")
    twice = dict.fromkeys(topology.SERVICES, 2)
    async with running_stack(work, Options(sim=True, auth=True, tls=True, replicas=twice)) as running:
        login.log_in(running.folder, ADA, 600)
        async with peer(running, "memory") as channel:
            agent = an_agent("helper")
            agent.model.tool_choice = agent_pb2.TOOL_CHOICE_MODEL
            agent.knowledge.collections.append("none")
            agent.intents.add(name="sum", examples=["add two numbers", "what is six times seven"])
            stub = memory_pb2_grpc.MemoryServiceStub(channel)
            await stub.PutAgent(memory.PutAgentRequest(agent=agent), metadata=mesh(running))
        yield running


def mesh(stack: Stack) -> list[tuple[str, str]]:
    return metadata_of(ADA, (stack.folder.keys / "mesh.token").read_text().strip())


def tls(keys: Path, service: str) -> Tls:
    return Tls(keys / "ca.pem", keys / "operator.pem", keys / "operator.key", service)


@asynccontextmanager
async def peer(stack: Stack, service: str, address: str = "") -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service as another service has one."""
    async with tls(stack.folder.keys, service).channel(
        address or grpc_target(stack.state.addresses, service)
    ) as channel:
        yield channel


@asynccontextmanager
async def client(stack: Stack) -> AsyncIterator[Client]:
    async with orchestrator_at(edge_of(stack.folder, stack.state, None, None)) as made:
        yield made


async def turn(conversation: Conversation, script: Mapping[str, object]) -> Transcript:
    transcript = Transcript()
    async for event in conversation.say(f"#sim {json.dumps(script)}"):
        transcript.add(event)
    return transcript


async def served(stack: Stack, replica: str) -> int:
    """Calls that a replica has served, those of its health not counted."""
    shown = await metrics_at(stack.address(f"{replica}_metrics"))
    return int(shown.sum("myriad_rpc_seconds_count"))


async def test_turns_take_every_hop_and_every_replica_its_share(stack: Stack) -> None:
    everyone = [name for service in topology.SERVICES for name in replicas(stack.state.addresses, service)]
    idle = everyone
    async with client(stack) as edge:
        conversation = await Conversation.begin(edge, agent="helper", session_id=None)
        for turns in range(1, ENOUGH + 1):
            told = await turn(conversation, CALCULATION)
            assert told.answer == "It is 42."
            assert [call["outcome"] for call in told.tools.values()] == ["OK"]
            if turns % LOOKED_AFTER == 0:
                idle = [replica for replica in everyone if await served(stack, replica) == 0]
            if not idle:
                break
    assert not idle


async def test_a_run_at_work_in_one_replica_is_watched_and_stopped_through_the_other(stack: Stack) -> None:
    one, other = reach(stack.state.addresses, "orchestrator")
    async with peer(stack, "orchestrator", one) as here, peer(stack, "orchestrator", other) as there:
        begins, watches = (orchestrator_pb2_grpc.OrchestratorServiceStub(channel) for channel in (here, there))
        said = mesh(stack)
        session = (await begins.CreateSession(sessions_pb2.CreateSessionRequest(agent="helper"), metadata=said)).session
        asked = run_pb2.RunTurnRequest(session_id=session.session_id, input='#sim {"forever": true, "delay_ms": 20}')
        run = begins.RunTurn(asked, metadata=said, timeout=30)
        began = []
        async for event in run:
            began.append(event)
            if event.WhichOneof("event") == "text_delta":
                break
        run_id = began[0].run_id
        seen = []
        async for event in watches.WatchRun(run_pb2.WatchRunRequest(run_id=run_id), metadata=said, timeout=30):
            seen.append(event)
            if len(seen) == len(began) + 5:
                await watches.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), metadata=said, timeout=10)
        began += [event async for event in run]
        assert seen[-1].WhichOneof("event") == "cancelled"
        assert [event for event in began if event.sequence] == [event for event in seen if event.sequence]


async def test_the_edge_speaks_to_nobody_in_the_open(stack: Stack) -> None:
    known = edge_of(stack.folder, stack.state, None, None)
    in_the_open = Edge(known.address, known.principal, known.token)
    async with orchestrator_at(in_the_open) as edge:
        with pytest.raises(ServiceUnavailable):
            await Conversation.begin(edge, agent="helper", session_id=None)


async def test_the_edge_is_not_believed_without_its_authority(stack: Stack, tmp_path: Path) -> None:
    certificates.make_certificates(tmp_path, {})
    known = edge_of(stack.folder, stack.state, None, None)
    async with orchestrator_at(Edge(known.address, known.principal, known.token, tmp_path / "ca.pem")) as edge:
        with pytest.raises(ServiceUnavailable):
            await Conversation.begin(edge, agent="helper", session_id=None)


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_a_service_listens_to_nobody_who_has_no_certificate_of_the_mesh(
    stack: Stack, tmp_path: Path, service: str
) -> None:
    certificates.make_certificates(tmp_path, {"operator": ["operator"]})
    (tmp_path / "ca.pem").write_bytes((stack.folder.keys / "ca.pem").read_bytes())  # trusts the stack, is not of it
    stranger = tls(tmp_path, service)
    name = topology.SERVICES[service].proto_service
    for address in reach(stack.state.addresses, service):
        for wrong in (None, stranger, tls(stack.folder.keys, "envoy")):  # nor is it taken for another
            with pytest.raises(NotReady, match="UNAVAILABLE"):
                await check(readiness.health(address, name, tls=wrong))
        await check(readiness.health(address, name, tls=tls(stack.folder.keys, service)))


def trusting(roots: Path) -> dict[str, str]:
    return {"MYRIAD_CA": str(roots), "NODE_EXTRA_CA_CERTS": str(roots)}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("foreign", CLIENT_LIST, ids=lambda foreign: foreign.language)
async def test_a_client_of_another_language_shows_its_token_and_trusts_only_the_roots_it_is_given(
    stack: Stack, foreign: toolchains.Client, tmp_path: Path
) -> None:
    toolchains.require(foreign, os.environ)
    await toolchains.build(foreign)
    token = identity.mint(stack.folder.keys, ADA, 600)
    roots = trusting(stack.folder.keys / "ca.pem")
    asked = (stack.address("envoy"), "helper", sim(text="hi"))
    said = await toolchains.call(foreign, *asked, **roots, MYRIAD_TOKEN=token)
    assert said["answered"]["answer"] == "hi"
    with pytest.raises(ClientFailed, match=r"(?i)unauthenticated"):
        await toolchains.call(foreign, *asked, **roots)
    certificates.make_certificates(tmp_path, {})
    with pytest.raises(ClientFailed, match=r"(?i)unavailable|certificate|fetch failed"):
        await toolchains.call(foreign, *asked, **trusting(tmp_path / "ca.pem"), MYRIAD_TOKEN=token)
