"""The service as it is built, trained by its command, on a running Triton; memory is a scripted servicer."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.nlu.v1 import nlu_pb2, nlu_pb2_grpc
from services.kit.app import App, Kit, ready
from services.kit.clients import INPROC, Client
from services.kit.errors import AgentNotFound, ModelUnavailable, Unavailable
from services.kit.telemetry import open_telemetry
from services.nlu import train
from services.nlu.app import build
from services.nlu.config import Config
from tests.support.triton import free_port_pair, running_triton

AGENT = """
name: shop
persona: You help customers of a shop.
intents:
  - name: order_status
    examples: [where is my order, track my parcel, has my order shipped yet, when will my package arrive,
      my delivery is late, what is the status of order 1002]
    tool: {name: get_order, arguments: {order_id: order_id}}
  - name: return_order
    examples: [I want to return my order, how do I send this back, can I return an item, start a return please,
      the shoes do not fit and I want to send them back, return label]
  - name: opening_hours
    examples: [when are you open, what are your opening hours, are you open on sunday, what time does the shop close,
      is the store open today, opening times please]
entities:
  - name: order_id
    patterns: ['\\b(\\d{4})\\b']
tools:
  - name: get_order
    description: Looks an order up.
    side_effect: SIDE_EFFECT_READ
    builtin: {function: get_order}
"""


class Memory(memory_pb2_grpc.MemoryServiceServicer):
    """Knows the agents it is given, by name; the last is the latest."""

    def __init__(self) -> None:
        self.revisions: list[agent_pb2.Agent] = []

    async def GetAgent(self, request, context):
        wanted = request.agent
        for agent in reversed(self.revisions):
            if agent.name == wanted.name and wanted.revision in (0, agent.revision):
                return memory_pb2.GetAgentResponse(agent=agent)
        raise AgentNotFound("there is no such agent")

    def put(self, content: str) -> None:
        agent = json_format.ParseDict(yaml.safe_load(content), agent_pb2.Agent())
        agent.revision = len(self.revisions) + 1
        self.revisions.append(agent)


@pytest.fixture(scope="module")
async def triton(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    work: Path = tmp_path_factory.mktemp("triton")
    async with running_triton(work, ["embedder"]) as address:
        yield address


class Nlu:
    """The built service, with what it stands on."""

    def __init__(self, kit: Kit, app: App, memory: Memory, client: Client) -> None:
        self.kit, self.app, self.memory, self.client = kit, app, memory, client

    async def analyze(self, text: str) -> nlu_pb2.AnalyzeResponse:
        request = nlu_pb2.AnalyzeRequest(agent=agent_pb2.AgentRef(name="shop"), text=text)
        return await self.client.unary(nlu_pb2_grpc.NluServiceStub(self.client.channel).Analyze, request, timeout=10)


async def started(config: Config) -> Nlu:
    kit, memory = Kit(open_telemetry("test", "", 0.0), None), Memory()
    kit.registry(App("memory", lambda server: memory_pb2_grpc.add_MemoryServiceServicer_to_server(memory, server)))
    app = await build(config, kit)
    kit.registry(app)
    return Nlu(kit, app, memory, kit.network.client("nlu", INPROC))


async def stopped(nlu: Nlu) -> None:
    for closer in reversed(nlu.app.closers):
        await closer()
    await nlu.kit.network.close()


@pytest.fixture
async def nlu(triton: str, tmp_path: Path) -> AsyncIterator[Nlu]:
    service = await started(Config(memory_address=INPROC, triton_address=triton, models_dir=tmp_path / "models"))
    yield service
    await stopped(service)


def trained(tmp_path: Path, triton: str, content: str) -> int:
    path = tmp_path / "agent.yaml"
    path.write_text(content)
    arguments = ["--agent-file", str(path), "--tenant", "dev", "--models-dir", str(tmp_path / "models")]
    return train.main([*arguments, "--triton", triton])


async def once_learned(nlu: Nlu, text: str) -> nlu_pb2.AnalyzeResponse:
    """What it understands once it has the model, which may take it two seconds."""
    end = time.monotonic() + 2
    while True:
        found = await nlu.analyze(text)
        if found.model_version or time.monotonic() > end:
            return found
        await asyncio.sleep(0.1)


async def test_service_is_ready_when_the_embedder_is(nlu: Nlu) -> None:
    await ready(nlu.app.checks)


async def test_model_trained_while_the_service_runs_is_used_within_two_seconds(
    nlu: Nlu, triton: str, tmp_path: Path
) -> None:
    nlu.memory.put(AGENT)
    before = await nlu.analyze("where has my parcel 1001 got to?")
    assert (list(before.intents), before.model_version) == ([], "")
    assert len(before.embedding) == 384
    assert await asyncio.to_thread(trained, tmp_path, triton, AGENT) == 0
    after = await once_learned(nlu, "where has my parcel 1001 got to?")
    assert after.intents[0].name == "order_status"
    assert after.intents[0].confidence > 0.5
    assert not after.out_of_scope
    assert [(each.type, each.value) for each in after.entities] == [("order_id", "1001"), ("number", "1001")]
    assert after.complexity.tools > 0.5
    assert (await nlu.analyze("do you open on saturdays?")).intents[0].name == "opening_hours"
    assert (await nlu.analyze("who won the world cup in 1998?")).out_of_scope

    changed = AGENT.replace("name: opening_hours", "name: hours")
    nlu.memory.put(changed)
    assert (await nlu.analyze("do you open on saturdays?")).model_version == ""
    assert await asyncio.to_thread(trained, tmp_path, triton, changed) == 0
    assert (await once_learned(nlu, "do you open on saturdays?")).intents[0].name == "hours"


async def test_unknown_agent_is_not_found(nlu: Nlu) -> None:
    with pytest.raises(AgentNotFound):
        await nlu.analyze("hello")


async def test_without_triton_it_is_not_ready_and_says_when_to_come_back(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port_pair()}"
    service = await started(Config(memory_address=INPROC, triton_address=nobody, models_dir=tmp_path))
    service.memory.put(AGENT)
    with pytest.raises(Unavailable, match="embedder"):
        await ready(service.app.checks)
    with pytest.raises(ModelUnavailable) as caught:
        await service.analyze("hello")
    assert caught.value.retry_after == 1.0
    await stopped(service)


async def test_triton_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", free_port_pair())
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    config = Config(memory_address=INPROC, triton_address=address, models_dir=tmp_path, embed_timeout_s=0.5)
    service = await started(config)
    service.memory.put(AGENT)
    async with asyncio.timeout(10):
        with pytest.raises(ModelUnavailable):
            await service.analyze("hello")
    await stopped(service)
    server.close()
    await server.wait_closed()


async def test_trainer_without_triton_ends_with_1_and_says_so(tmp_path: Path, capsys) -> None:
    assert await asyncio.to_thread(trained, tmp_path, f"127.0.0.1:{free_port_pair()}", AGENT) == 1
    assert capsys.readouterr().err == "not trained: the model tier does not answer\n"
