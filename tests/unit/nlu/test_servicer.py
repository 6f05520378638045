from collections.abc import AsyncIterator

import pytest

from myriad.common.v1 import agent_pb2
from myriad.nlu.v1 import nlu_pb2, nlu_pb2_grpc
from services.kit.app import App, Kit
from services.kit.call import Call, Principal, enter
from services.kit.clients import INPROC, Client
from services.kit.errors import AgentNotFound, InvalidArgument
from services.kit.telemetry import open_telemetry
from services.nlu.adapters.inmemory import InMemoryAgents, InMemoryIntentModels
from services.nlu.adapters.memory import agent_of
from services.nlu.core.workers import Workers
from services.nlu.intents.artefact import digest
from services.nlu.servicer import NluServicer
from tests.support.nlu import analyzer, centroid_head

DEV = Principal("dev", "dev")
AURA = agent_pb2.Agent(
    name="aura",
    revision=1,
    persona="You help.",
    intents=[
        agent_pb2.Intent(
            name="order_status",
            examples=["where is my order", "track my parcel"],
            tool=agent_pb2.ToolBinding(name="get_order", arguments={"id": "order_id"}),
        ),
        agent_pb2.Intent(name="greeting", examples=["hello there", "good morning"]),
    ],
    entities=[
        agent_pb2.EntityType(name="order_id", patterns=[r"\b(\d{4})\b"]),
        agent_pb2.EntityType(name="plan", values=[agent_pb2.EntityValue(value="Basic", synonyms=["the small one"])]),
    ],
)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    enter(Call(method="test", metadata={}, deadline=None, peer="test", principal=DEV))
    agents, models, workers = InMemoryAgents(), InMemoryIntentModels(), Workers(1)
    agent = agent_of(AURA)
    agents.put(DEV, agent)
    await models.save(DEV, "aura", await centroid_head(agent))
    kit = Kit(open_telemetry("test", "", 0.0), None)
    servicer = NluServicer(analyzer(agents, workers, models=models))
    kit.registry(App("nlu", lambda server: nlu_pb2_grpc.add_NluServiceServicer_to_server(servicer, server)))
    yield kit.network.client("nlu", INPROC)
    await kit.network.close()
    await workers.close()


async def analyze(client: Client, text: str, name: str = "aura", revision: int = 0) -> nlu_pb2.AnalyzeResponse:
    request = nlu_pb2.AnalyzeRequest(agent=agent_pb2.AgentRef(name=name, revision=revision), text=text)
    return await client.unary(nlu_pb2_grpc.NluServiceStub(client.channel).Analyze, request, timeout=10)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "x" * 8001, "bell \x07", "del \x7f"])
async def test_text_outside_its_limits_names_the_field(client: Client, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await analyze(client, text)
    assert list(caught.value.fields) == ["text"]


@pytest.mark.parametrize("name", ["", "Aura", "../aura", "a" * 64])
async def test_agent_with_an_impossible_name_names_the_field(client: Client, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await analyze(client, "hello", name)
    assert list(caught.value.fields) == ["agent.name"]


@pytest.mark.parametrize(("name", "revision"), [("nobody", 0), ("aura", 2)])
async def test_unknown_agent_or_revision_is_not_found(client: Client, name: str, revision: int) -> None:
    with pytest.raises(AgentNotFound):
        await analyze(client, "hello", name, revision)


async def test_answer_holds_all_that_was_understood(client: Client) -> None:
    response = await analyze(client, "👍 where is my order 1001, the Small one, for 12.50 EUR?")
    assert response.intents[0].name == "order_status"
    assert [(each.type, each.text, each.start, each.end, each.value) for each in response.entities] == [
        ("order_id", "1001", 20, 24, "1001"),
        ("number", "1001", 20, 24, "1001"),
        ("plan", "the Small one", 26, 39, "Basic"),
        ("amount", "12.50 EUR", 45, 54, "12.50 EUR"),
    ]
    assert not response.out_of_scope
    assert response.language == "en"
    assert response.model_version == digest(agent_of(AURA).intents, "embedder")
    assert len(response.embedding) == 384
    assert sum(value * value for value in response.embedding) == pytest.approx(1, abs=1e-5)
    score = 0.3 * response.complexity.tools + 0.4 * response.complexity.multi_step + 0.3 * response.complexity.reasoning
    assert response.complexity.score == pytest.approx(score, abs=1e-6)
    assert response.complexity.tools > 0.5


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "a\u0301\u0302" * 2000, "𐍈" * 8000, "😀"])
async def test_odd_text_is_answered(client: Client, text: str) -> None:
    assert len((await analyze(client, text)).embedding) == 384
