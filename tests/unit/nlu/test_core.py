import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from services.kit.call import Principal
from services.kit.errors import AgentNotFound, ModelUnavailable
from services.nlu.adapters.inmemory import InMemoryAgents, InMemoryEmbedder, InMemoryIntentModels
from services.nlu.agent import Agent, EntityType, Intent
from services.nlu.core import complexity
from services.nlu.core.workers import Workers
from services.nlu.intents.artefact import digest
from tests.support.nlu import ANN, analyzer, centroid_head, languages, renamed

RETURN = Intent("return_order", ("I want to return my order", "send the parcel back", "return this item"))
STATUS = Intent("order_status", ("where is my order", "track my parcel", "order status"), tool="get_order")
GREETING = Intent("greeting", ("hello there", "good morning to you"))
AURA = Agent("aura", 1, (RETURN, STATUS, GREETING), (EntityType("order_id", (), (r"\b\d{4}\b",)),))


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    pool = Workers(2)
    yield pool
    await pool.close()


@pytest.fixture
def agents() -> InMemoryAgents:
    held = InMemoryAgents()
    held.put(ANN, AURA)
    return held


class CountingEmbedder(InMemoryEmbedder):
    def __init__(self) -> None:
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str]):
        self.texts += texts
        return await super().embed(texts)


class DeadEmbedder(InMemoryEmbedder):
    async def embed(self, texts: Sequence[str]):
        raise ModelUnavailable("the model tier does not answer", retry_after=1.0)


class HangingEmbedder(InMemoryEmbedder):
    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = False

    async def embed(self, texts: Sequence[str]):
        self.began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_unknown_agent_is_not_found_and_nothing_is_embedded(agents: InMemoryAgents, workers: Workers) -> None:
    embedder = CountingEmbedder()
    with pytest.raises(AgentNotFound):
        await analyzer(agents, workers, embedder).analyze(ANN, "nobody", 0, "hello")
    assert embedder.texts == []


async def test_agent_of_another_tenant_is_not_found(agents: InMemoryAgents, workers: Workers) -> None:
    with pytest.raises(AgentNotFound):
        await analyzer(agents, workers).analyze(Principal("other", "ann"), "aura", 0, "hello")


async def test_dead_embedder_is_model_unavailable(agents: InMemoryAgents, workers: Workers) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        await analyzer(agents, workers, DeadEmbedder()).analyze(ANN, "aura", 0, "hello")
    assert caught.value.retry_after == 1.0


async def test_cancelling_the_call_cancels_the_embedding(agents: InMemoryAgents, workers: Workers) -> None:
    embedder = HangingEmbedder()
    call = asyncio.create_task(analyzer(agents, workers, embedder).analyze(ANN, "aura", 0, "hello"))
    await embedder.began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert embedder.cancelled


async def test_failure_elsewhere_cancels_the_embedding(agents: InMemoryAgents, workers: Workers) -> None:
    class BrokenModels(InMemoryIntentModels):
        async def load(self, principal: Principal, agent: str, digest: str):
            raise RuntimeError("broken")

    embedder = HangingEmbedder()
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="broken"):
            await analyzer(agents, workers, embedder, BrokenModels()).analyze(ANN, "aura", 0, "hello")
    assert embedder.cancelled


async def test_text_is_embedded_once_and_the_embedding_is_returned(agents: InMemoryAgents, workers: Workers) -> None:
    embedder = CountingEmbedder()
    analysis = await analyzer(agents, workers, embedder).analyze(ANN, "aura", 0, "where is my order 1001?")
    assert embedder.texts == ["where is my order 1001?"]
    assert analysis.embedding == (await InMemoryEmbedder().embed(["where is my order 1001?"]))[0]


async def test_without_a_model_there_are_no_intents_and_the_rest_is_there(
    agents: InMemoryAgents, workers: Workers
) -> None:
    analysis = await analyzer(agents, workers).analyze(ANN, "aura", 0, "where is my order 1001 please?")
    assert (analysis.intents, analysis.model_version, analysis.out_of_scope) == ((), "", False)
    assert [(each.type, each.value) for each in analysis.entities] == [("order_id", "1001"), ("number", "1001")]
    assert analysis.language == "en"


async def test_intents_are_ranked_by_the_model_of_the_agents_examples(agents: InMemoryAgents, workers: Workers) -> None:
    models = InMemoryIntentModels()
    await models.save(ANN, "aura", await centroid_head(AURA))
    analysis = await analyzer(agents, workers, models=models).analyze(ANN, "aura", 0, "where is my order")
    assert analysis.intents[0].name == "order_status"
    confidences = [each.confidence for each in analysis.intents]
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) == pytest.approx(1, abs=1e-5)
    assert analysis.model_version == digest(AURA.intents, "embedder")
    assert not analysis.out_of_scope


async def test_text_unlike_every_example_is_out_of_scope(agents: InMemoryAgents, workers: Workers) -> None:
    models = InMemoryIntentModels()
    await models.save(ANN, "aura", await centroid_head(AURA))
    analysis = await analyzer(agents, workers, models=models).analyze(
        ANN, "aura", 0, "photosynthesis happens in plants"
    )
    assert analysis.out_of_scope
    assert analysis.complexity.tools == 0


async def test_new_revision_finds_its_own_model(agents: InMemoryAgents, workers: Workers) -> None:
    models = InMemoryIntentModels()
    await models.save(ANN, "aura", await centroid_head(AURA))
    asked = analyzer(agents, workers, models=models)
    assert (await asked.analyze(ANN, "aura", 0, "hello there")).model_version
    changed = Agent("aura", 2, (*AURA.intents, Intent("refund", ("give me my money back", "I want a refund"))))
    agents.put(ANN, changed)
    assert (await asked.analyze(ANN, "aura", 0, "hello there")).model_version == ""
    await models.save(ANN, "aura", await centroid_head(changed))
    analysis = await asked.analyze(ANN, "aura", 0, "I want a refund")
    assert analysis.intents[0].name == "refund"
    assert (await asked.analyze(ANN, "aura", 1, "hello there")).model_version == digest(AURA.intents, "embedder")


async def test_model_of_another_embedding_width_is_not_used(agents: InMemoryAgents, workers: Workers) -> None:
    class NarrowEmbedder(InMemoryEmbedder):
        async def embed(self, texts: Sequence[str]):
            return [vector[:100] for vector in await super().embed(texts)]

    models = InMemoryIntentModels()
    await models.save(ANN, "aura", await centroid_head(AURA))
    analysis = await analyzer(agents, workers, NarrowEmbedder(), models).analyze(ANN, "aura", 0, "hello there")
    assert (analysis.intents, analysis.model_version) == ((), "")


async def test_agent_without_intents_asks_for_no_model(agents: InMemoryAgents, workers: Workers) -> None:
    class NoModels(InMemoryIntentModels):
        async def load(self, principal: Principal, agent: str, digest: str):
            raise AssertionError("asked for a model")

    agents.put(ANN, Agent("plain", 1))
    analysis = await analyzer(agents, workers, models=NoModels()).analyze(ANN, "plain", 0, "hello")
    assert analysis.intents == ()


async def test_bad_pattern_of_an_agent_fails_no_call(agents: InMemoryAgents, workers: Workers) -> None:
    agents.put(ANN, Agent("odd", 1, (), (EntityType("bad", (), ("(",)),)))
    analysis = await analyzer(agents, workers).analyze(ANN, "odd", 0, "12 EUR")
    assert [each.type for each in analysis.entities] == ["amount"]


async def test_dated_and_long_texts_are_read_off_the_loop(
    agents: InMemoryAgents, workers: Workers, monkeypatch
) -> None:
    asked = analyzer(agents, workers)
    threads = []
    extractor = asked._readers.extractor
    real = extractor.find

    def find(*args):
        threads.append(threading.current_thread() is threading.main_thread())
        return real(*args)

    monkeypatch.setattr(extractor, "find", find)
    for text in ("where is my order 1001", "see you tomorrow", "call +49 30 901820", "word " * 1000):
        await asked.analyze(ANN, "aura", 0, text)
    assert threads == [True, False, False, False]


def test_digest_ignores_order_and_bindings_and_minds_examples_and_embedder() -> None:
    same = (GREETING, Intent("order_status", STATUS.examples[::-1]), RETURN)
    assert digest(same, "embedder") == digest(AURA.intents, "embedder")
    assert digest(AURA.intents, "other") != digest(AURA.intents, "embedder")
    more = (*AURA.intents[:2], Intent("greeting", (*GREETING.examples, "hi")))
    assert digest(more, "embedder") != digest(AURA.intents, "embedder")


async def test_head_names_five_intents_at_most() -> None:
    intents = tuple(Intent(f"intent_{n}", (f"word{n} alpha", f"word{n} beta")) for n in range(9))
    head = renamed(await centroid_head(Agent("many", 1, intents)), "v")
    (vector,) = await InMemoryEmbedder().embed(["word4 alpha"])
    ranking = head.rank(vector, "word4 alpha")
    assert len(ranking.intents) == 5
    assert ranking.intents[0].name == "intent_4"


@pytest.mark.parametrize("text", ["hello", "👍", "...", "Guten Morgen"])
def test_greeting_is_not_complex(text: str) -> None:
    assert complexity.assess(text, bound=0, entity_types=()).score == 0


def test_intent_bound_to_a_tool_is_work_for_tools() -> None:
    found = complexity.assess("where is it", bound=0.9, entity_types=())
    assert (found.tools, found.score) == (0.9, pytest.approx(0.27))


def test_hard_question_is_complex_for_all_three_reasons() -> None:
    text = (
        "Compare both plans and explain why one is better. Then cancel order 1001, and also refund the rest. "
        "Finally, how should I change my address? Which date works?"
    )
    found = complexity.assess(text, bound=0, entity_types={"number", "date"})
    assert found.tools > 0.7
    assert found.multi_step == found.reasoning == 1
    assert 0.9 < found.score <= 1


def test_score_is_the_weighted_sum() -> None:
    found = complexity.weighted(1.0, 0.5, 0.25)
    assert found.score == pytest.approx(0.3 + 0.2 + 0.075)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("where is my order please?", "en"),
        ("Wo ist meine Bestellung?", "de"),
        ("où est ma commande s'il vous plaît", "fr"),
        ("ok", ""),
        ("1001", ""),
        ("👍👍", ""),
    ],
)
def test_language_is_named_only_when_certain(text: str, language: str) -> None:
    assert languages().detect(text) == language


async def test_workers_hand_over_no_more_than_they_have_threads_for() -> None:
    workers, running, most = Workers(2), 0, 0
    lock, go_on = threading.Lock(), threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go_on.wait(5)
        with lock:
            running -= 1

    tasks = [asyncio.create_task(workers.run(work)) for _ in range(6)]
    await asyncio.sleep(0.05)
    assert workers._executor._work_queue.qsize() == 0
    tasks[0].cancel()
    tasks[5].cancel()
    go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2
    assert [type(result).__name__ for result in results] == ["CancelledError", *["NoneType"] * 4, "CancelledError"]
    await workers.close()


async def test_error_of_the_work_reaches_the_caller() -> None:
    workers = Workers(1)

    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await workers.run(work)
    assert await workers.run(lambda: 1) == 1
    await workers.close()
