"""One list of behaviours for the orchestrator's `Nlu`: in memory, and behind the nlu service on its own fakes."""

import asyncio
import math
from functools import partial

import pytest

from myriad.nlu.v1 import nlu_pb2_grpc
from services.kit.call import Principal
from services.kit.errors import (
    AgentNotFound,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ModelUnavailable,
    ServiceUnavailable,
)
from services.nlu.adapters.inmemory import InMemoryAgents as NluAgents
from services.nlu.adapters.inmemory import InMemoryIntentModels
from services.nlu.agent import Agent as NluAgent
from services.nlu.agent import EntityType
from services.nlu.agent import Intent as NluIntent
from services.nlu.core.workers import Workers
from services.nlu.servicer import NluServicer
from services.orchestrator.adapters.inmemory_services import InMemoryNlu
from services.orchestrator.adapters.nlu import NluClient
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.turn import Complexity, Entity, Understanding
from tests.support.nlu import analyzer, centroid_head
from tests.support.orchestrator import ALICE, Hanging, act_as, served

AURA, BELL = Agent("aura", 1, "You help."), Agent("bell", 1, "You ring.")
ORDER = "👍 where is my order 1007"
NONSENSE = "the volcano erupted at night"
UNDERSTOOD = Understanding(
    intents=(("order_status", 0.8), ("greeting", 0.2)),
    entities=(Entity("order_id", "1007", 20, 24, "1007"),),
    complexity=Complexity(score=0.1),
    language="en",
    embedding=[0.6, 0.8],
)
ASKED = (NluIntent("order_status", ("where is my order", "track my parcel")), NluIntent("greeting", ("hello", "hi")))
ORDER_ID = EntityType("order_id", patterns=(r"\b(\d{4})\b",))


def inmemory_nlu() -> InMemoryNlu:
    made = InMemoryNlu()
    made.put("aura", ORDER, UNDERSTOOD)
    made.put("aura", NONSENSE, Understanding((("order_status", 0.5), ("greeting", 0.5)), out_of_scope=True))
    return made


@pytest.fixture(params=["inmemory", "nlu"])
async def nlu(request):
    act_as(ALICE)
    if request.param == "inmemory":
        yield inmemory_nlu()
        return
    agents, models, workers = NluAgents(), InMemoryIntentModels(), Workers(1)
    aura = NluAgent("aura", 1, ASKED, (ORDER_ID,))
    agents.put(ALICE, aura)
    agents.put(ALICE, NluAgent("bell", 1))
    await models.save(ALICE, "aura", await centroid_head(aura))
    yield client_of(NluServicer(analyzer(agents, workers, models=models)), timeout_s=5.0)
    await workers.close()


def client_of(servicer: object, timeout_s: float) -> NluClient:
    return NluClient(served("nlu", partial(nlu_pb2_grpc.add_NluServiceServicer_to_server, servicer)), timeout_s)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
async def test_a_blank_text_is_refused(nlu, text):
    with pytest.raises(InvalidArgument, match="text"):
        await nlu.analyze(AURA, text)


async def test_intents_come_by_falling_confidence(nlu):
    understood = await nlu.analyze(AURA, ORDER)
    assert understood.intent == "order_status"
    confidences = [confidence for _, confidence in understood.intents]
    assert len(confidences) == 2
    assert 1 >= confidences[0] > confidences[1] >= 0


async def test_an_entity_stands_where_it_says_counted_in_code_points(nlu):
    found = {entity.type: entity for entity in (await nlu.analyze(AURA, ORDER)).entities}["order_id"]
    assert (found.text, found.value) == (ORDER[found.start : found.end], "1007")


async def test_language_and_complexity_are_told(nlu):
    understood = await nlu.analyze(AURA, ORDER)
    assert understood.language == "en"
    assert 0 <= understood.complexity.score <= 1


async def test_the_embedding_has_length_one(nlu):
    assert math.hypot(*(await nlu.analyze(AURA, ORDER)).embedding) == pytest.approx(1, abs=1e-3)


async def test_what_is_out_of_scope_has_no_intent_that_counts(nlu):
    understood = await nlu.analyze(AURA, NONSENSE)
    assert (understood.out_of_scope, understood.intent) == (True, "")


async def test_a_text_means_to_an_agent_only_what_that_agent_knows(nlu):
    understood = await nlu.analyze(BELL, ORDER)
    assert (understood.intents, understood.intent) == ((), "")
    assert "order_id" not in {entity.type for entity in understood.entities}


async def test_an_error_of_the_fake_is_the_one_it_was_given():
    fake = inmemory_nlu()
    fake.error = ModelUnavailable("no embedder")
    with pytest.raises(ModelUnavailable):
        await fake.analyze(AURA, ORDER)
    assert fake.calls == 1


async def test_an_agent_that_nlu_cannot_find_is_not_found():
    workers = Workers(1)
    act_as(Principal("evil", "alice"))
    with pytest.raises(AgentNotFound):
        await client_of(NluServicer(analyzer(NluAgents(), workers)), timeout_s=5.0).analyze(AURA, ORDER)
    await workers.close()


async def test_nlu_that_nobody_serves_is_unavailable():
    act_as(ALICE)
    with pytest.raises(ServiceUnavailable, match="nlu does not answer"):
        await NluClient(served("nlu"), 1.0).analyze(AURA, ORDER)


async def test_nlu_that_does_not_answer_in_time_is_given_up():
    hanging = Hanging()
    act_as(ALICE)
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(10):
            await client_of(hanging, timeout_s=0.05).analyze(AURA, ORDER)
    assert hanging.cut.is_set()


async def test_leaving_cancels_the_analysis():
    hanging = Hanging()
    act_as(ALICE)
    asking = asyncio.create_task(client_of(hanging, timeout_s=5.0).analyze(AURA, ORDER))
    await asyncio.wait_for(hanging.asked.wait(), 5)
    asking.cancel()
    with pytest.raises((asyncio.CancelledError, Cancelled)):
        await asking
    await asyncio.wait_for(hanging.cut.wait(), 5)
