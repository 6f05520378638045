"""Workers on one real store, behind a real memory; and the process that is one."""

import asyncio
import json
import signal
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.kit.call import Principal
from services.kit.errors import ModelUnavailable, QueueFull, RequestIdReused
from services.kit.queue import Item, Stats
from services.kit.queue_redis import RedisQueue
from services.kit.redis import Redis
from services.orchestrator.adapters.memory import MemoryTurns
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_dead_letters import RedisDeadLetters
from services.orchestrator.adapters.redis_notices import RedisNotices
from services.orchestrator.adapters.redis_owners import RedisOwners
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.core import worker as core
from services.orchestrator.core.dead_letters import DeadLetterBox
from services.orchestrator.core.worker import MAX_DELIVERIES, Worker
from services.orchestrator.domain.run import Request
from tests.support.held_put import HeldPut
from tests.support.memory import running_memory
from tests.support.orchestrator import Bench, act_as, kinds
from tests.support.ports import free_port
from tests.support.process import running
from tests.support.unguarded import CLAIMS_TAKEN_OVER, unguarded
from tests.support.valkey import running_valkey

IDLE_S = 0.5
CONFIG = Config(coalesce_s=0.01, retry_s=0.1)
SIMPLE, COMPLEX, GPU = "SIMPLE", "COMPLEX", "GPU"


class House:
    """A store, memory, processes that accept runs, and workers."""

    def __init__(self, url, memory, closing):
        self.url, self.memory, self.closing = url, memory, closing
        self.store = Redis(url)
        closing.push_async_callback(self.store.close)
        self.bench = Bench()
        self.off = ()
        """Guards that the functions lack which its processes call."""

    async def tenant(self):
        """A user of a tenant that is new, and has the agent."""
        owner = Principal(uuid.uuid4().hex, "alice")
        self.bench.agents.put(owner.tenant, self.bench.agent)
        await self.memory.put_agent(owner)
        return owner

    async def session(self, owner):
        return await self.memory.session(owner)

    def process(self, classes=(), most=100_000):
        """A process that accepts runs, and what it is made of."""
        redis = unguarded(Redis(self.url), *self.off)
        queue, notices = RedisQueue(redis, uuid.uuid4().hex, IDLE_S, most), RedisNotices(redis)
        runs = self.bench.another(
            CONFIG,
            memory=MemoryTurns(self.memory.client),
            run_log=RedisRunLog(redis, 60.0, CONFIG.lease_s),
            owners=RedisOwners(redis, CONFIG.owner_s),
            notices=notices,
            queue=queue,
            dead_letters=RedisDeadLetters(redis),
            classes=classes,
        )
        runs.start()
        for closer in (redis.close, notices.close, queue.close, runs.close):
            self.closing.push_async_callback(closer)
        return runs, queue

    def worker(self, *classes, places=4):
        """A worker that works. Returns its runs."""
        runs, queue = self.process(classes)
        how = {"queues": classes, "places": places, "idle_s": IDLE_S, "retry_s": CONFIG.retry_s}
        how["telemetry"] = self.bench.telemetry
        worker = Worker(queue, runs.take, runs.give_up, **how)
        worker.start()
        self.closing.push_async_callback(worker.drain, 0)
        return worker

    async def create(self, runs, owner, session, text="hello", **how):
        act_as(owner)
        request = Request(session, text, **{"queue": SIMPLE, **how})
        return await runs.begin(owner, request, lambda run_id: None)

    async def ends(self, runs, owner, run_id):
        """The kinds of its events, to the last."""
        return kinds(await self.bench.events(run_id, principal=owner, runs=runs))


@pytest.fixture(scope="module")
async def url(tmp_path_factory):
    async with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
async def house(url):
    async with running_memory(url) as memory, AsyncExitStack() as closing:
        yield House(url, memory, closing)


async def test_a_run_that_was_created_waits_until_a_worker_comes_and_is_shown_to_its_end(house):
    runs, queue = house.process()
    owner = await house.tenant()
    run_id = await house.create(runs, owner, await house.session(owner))
    watching = asyncio.create_task(house.ends(runs, owner, run_id))
    await asyncio.sleep(0.2)
    assert (watching.done(), (await queue.stats(SIMPLE)).waiting) == (False, 1)
    house.worker(SIMPLE)
    seen = await asyncio.wait_for(watching, 10)
    assert (seen[:2], seen[-1]) == (["started", "queued"], "completed")
    assert await queue.stats(SIMPLE) == Stats()


async def test_runs_of_one_session_end_in_the_order_they_were_created_whoever_works_on_them(house):
    runs, _ = house.process()
    owner = await house.tenant()
    session = await house.session(owner)
    for _ in range(3):
        house.worker(SIMPLE)
    created = [await house.create(runs, owner, session, f"say {n}") for n in range(6)]
    async with asyncio.timeout(20):
        for run_id in created:
            assert (await house.ends(runs, owner, run_id))[-1] == "completed"
    asked = [messages[-1].content for messages in house.bench.model.asked]
    assert asked == [f"say {n}" for n in range(6)]


async def test_a_run_for_a_full_queue_is_refused_and_its_request_begins_one_once_there_is_room(house):
    runs, queue = house.process(most=1)
    owner = await house.tenant()
    session, other = [await house.session(owner) for _ in range(2)]
    first = await house.create(runs, owner, session)
    for _ in range(2):
        with pytest.raises(QueueFull):
            await house.create(runs, owner, other, request_id="r1")
    await house.create(house.process(most=2)[0], owner, other, "the control", queue=COMPLEX)
    assert (await queue.stats(SIMPLE)).waiting == 1
    house.worker(SIMPLE, COMPLEX)
    assert (await asyncio.wait_for(house.ends(runs, owner, first), 10))[-1] == "completed"
    run_id = await house.create(runs, owner, other, request_id="r1")
    assert (await asyncio.wait_for(house.ends(runs, owner, run_id), 10))[-1] == "completed"
    asked = [messages[-1].content for messages in house.bench.model.asked]
    assert sorted(asked) == ["hello", "hello", "the control"]


async def test_a_request_that_is_refused_twice_at_once_is_free_for_another_session(house):
    runs, queue = house.process(most=1)
    owner = await house.tenant()
    first = await house.create(runs, owner, await house.session(owner))
    full, other = [await house.session(owner) for _ in range(2)]
    held = HeldPut(queue)
    refused = [asyncio.create_task(house.create(runs, owner, full, request_id="r1"))]
    await held.reached.wait()
    refused.append(asyncio.create_task(house.create(house.process(most=1)[0], owner, full, request_id="r1")))
    await asyncio.sleep(0.05)
    with pytest.raises(RequestIdReused):  # the control
        await house.create(runs, owner, other, request_id="r1")
    held.go.set()
    assert [type(each) for each in await asyncio.gather(*refused, return_exceptions=True)] == [QueueFull, QueueFull]
    house.worker(SIMPLE)
    assert (await asyncio.wait_for(house.ends(runs, owner, first), 10))[-1] == "completed"
    run_id = await house.create(runs, owner, other, request_id="r1")
    assert (await asyncio.wait_for(house.ends(runs, owner, run_id), 10))[-1] == "completed"


async def test_a_run_that_is_cancelled_before_it_is_due_makes_room_in_its_queue(house):
    runs, queue = house.process(most=1)
    owner = await house.tenant()
    due_ms = int((time.time() + 3600) * 1000)
    for later in (due_ms, 0):
        run_id = await house.create(runs, owner, await house.session(owner), due_ms=later)
        with pytest.raises(QueueFull):  # the control
            await house.create(runs, owner, await house.session(owner))
        await runs.cancel(owner, run_id)
        assert await queue.stats(SIMPLE) == Stats()


async def test_a_worker_leaves_classes_that_are_not_its_own_alone(house):
    runs, queue = house.process()
    owner = await house.tenant()
    house.worker(SIMPLE, COMPLEX)
    heavy = await house.create(runs, owner, await house.session(owner), queue=GPU)
    light = await house.create(runs, owner, await house.session(owner), queue=COMPLEX)
    assert (await asyncio.wait_for(house.ends(runs, owner, light), 10))[-1] == "completed"
    assert (await queue.stats(GPU)).waiting == 1
    house.worker(GPU)
    assert (await asyncio.wait_for(house.ends(runs, owner, heavy), 10))[-1] == "completed"


async def claimed_by_the_dead(house):
    """A run that a worker claimed and died with; another worker works. Whose run it is, and its end, to be awaited."""
    runs, _ = house.process()
    owner = await house.tenant()
    run_id = await house.create(runs, owner, await house.session(owner))
    _, dying = house.process((SIMPLE,))
    assert len(await dying.claim([SIMPLE], 1, 1.0)) == 1
    house.worker(SIMPLE)
    return house.ends(runs, owner, run_id)


async def test_what_a_worker_claimed_and_died_with_is_begun_by_another(house):
    ends = await claimed_by_the_dead(house)
    assert (await asyncio.wait_for(ends, 2 * IDLE_S + 5.0))[-1] == "completed"


async def test_control_what_the_dead_claimed_is_lost_where_nobody_takes_it_over(house):
    house.off = (CLAIMS_TAKEN_OVER,)
    ends = await claimed_by_the_dead(house)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ends, 4 * IDLE_S)


async def test_a_run_that_is_not_due_is_begun_when_it_is(house):
    runs, _ = house.process()
    owner = await house.tenant()
    house.worker(SIMPLE)
    due = time.time() + 0.5
    run_id = await house.create(runs, owner, await house.session(owner), due_ms=int(due * 1000))
    assert (await asyncio.wait_for(house.ends(runs, owner, run_id), 10))[-1] == "completed"
    assert time.time() >= due - 0.01


async def test_a_tenant_with_many_runs_delays_anothers_first_by_one_run(house):
    runs, _ = house.process()
    heavy, light = await house.tenant(), await house.tenant()
    many = [await house.create(runs, heavy, await house.session(heavy)) for _ in range(30)]
    last = await house.create(runs, light, await house.session(light), "the light one")
    begun = []
    take = house.bench.model.chat

    def chat(model, messages, *rest):
        begun.append(messages[-1].content)
        return take(model, messages, *rest)

    house.bench.model.chat = chat
    house.worker(SIMPLE, places=1)
    async with asyncio.timeout(20):
        await house.ends(runs, light, last)
        assert begun.index("the light one") <= 2
        for run_id in many:
            await house.ends(runs, heavy, run_id)


async def test_a_run_that_fails_for_what_may_pass_is_tried_three_times_and_then_a_dead_letter_to_be_asked_again(house):
    runs, queue = house.process()
    owner = await house.tenant()
    letters = RedisDeadLetters(house.store)
    box = DeadLetterBox(letters, runs.begin, RedisRunLog(house.store, 60.0, CONFIG.lease_s), EventCodec())
    away = ModelUnavailable("the model is away")
    house.bench.model.scripts = [(away,), (away,), (away,), ("Hello again.",)]
    house.worker(SIMPLE)
    run_id = await house.create(runs, owner, await house.session(owner), "are you there?", priority=7)
    assert (await asyncio.wait_for(house.ends(runs, owner, run_id), 20))[-1] == "failed"
    ((letter,), token) = await box.page(owner, 0, "")
    assert (letter.run_id, letter.user, letter.attempts, letter.error.reason, token) == (
        *(run_id, "alice", 3, "MODEL_UNAVAILABLE"),
        "",
    )
    again = await box.redrive(Principal(owner.tenant, "admin"), run_id)
    assert again != run_id
    assert (await asyncio.wait_for(house.ends(runs, owner, again), 20))[-1] == "completed"
    assert house.bench.model.asked[-1][-1].content == "are you there?"
    assert await box.page(owner, 0, "") == ([], "")
    assert await queue.stats(SIMPLE) == Stats()


@pytest.mark.parametrize("end", ["failed", "completed"], ids=["guarded", "control"])
async def test_a_run_that_no_worker_ever_began_ends_as_a_dead_letter_and_frees_its_session(house, monkeypatch, end):
    """Without a limit workers would claim for ever what they may have died of."""
    if end == "completed":
        monkeypatch.setattr(core, "MAX_DELIVERIES", 10 * MAX_DELIVERIES)
    runs, _ = house.process()
    owner = await house.tenant()
    session = await house.session(owner)
    run_id = await house.create(runs, owner, session)
    _, dying = house.process((SIMPLE,))
    for _ in range(MAX_DELIVERIES):
        (claimed,) = await dying.claim([SIMPLE], 1, 5.0)
        assert await dying.put_back(claimed, 0)
    house.worker(SIMPLE)
    assert (await asyncio.wait_for(house.ends(runs, owner, run_id), 20))[-1] == end
    if end == "failed":
        assert (await RedisDeadLetters(house.store).get(owner, run_id)).error.reason == "ABORTED"
    following = await house.create(runs, owner, session)
    assert (await asyncio.wait_for(house.ends(runs, owner, following), 20))[-1] == "completed"


@asynccontextmanager
async def worker_process(work, url):
    variables = {
        "MYRIAD_ORCHESTRATOR_REDIS_URL": url,
        "MYRIAD_ORCHESTRATOR_MEMORY_ADDRESS": f"127.0.0.1:{free_port()}",  # nobody is there
        "MYRIAD_ORCHESTRATOR_WORKER_CLASSES": "SIMPLE,other",
        "MYRIAD_DRAIN_S": "2",
    }
    async with running("services.orchestrator", work, variables, "worker") as process:
        async with grpc.aio.insecure_channel(process.address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            yield process, channel


async def serving(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(20):
        while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
            pass
    watch.cancel()


async def test_the_process_says_how_it_is_answers_nobody_and_puts_poison_aside(tmp_path, url):
    redis = Redis(url)
    queue = RedisQueue(redis, "producer")
    await redis.check()
    async with worker_process(tmp_path, url) as (process, channel):
        await serving(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for reply in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request])):
            names = {each.name for each in reply.list_services_response.service}
        assert names == {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        async with httpx.AsyncClient(trust_env=False) as client:
            shown = (await client.get(process.metrics_url)).text
        assert all(f'myriad_queue_oldest_seconds{{queue="{name}"}} 0.0' in shown for name in (SIMPLE, COMPLEX, GPU))
        await queue.put("other", [Item("poison", "acme", b"\xff")])
        async with asyncio.timeout(10):
            while await queue.stats("other") != Stats(dead=1):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended(10) == 0
        assert "poison" in process.output
        assert process.complaint == ""
    await queue.close()
    await redis.close()


async def test_a_run_that_no_worker_can_begin_now_waits_and_costs_it_nothing(tmp_path, url):
    redis = Redis(url)
    queue = RedisQueue(redis, "producer")
    await redis.check()
    body = json.dumps(["acme", "alice", "s", 1]).encode()
    async with worker_process(tmp_path, url) as (process, channel):
        await serving(channel)
        await queue.put("other", [Item("acme/s.1", "acme", body)])
        await asyncio.sleep(1.0)
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended(15) == 0
    async with asyncio.timeout(10):
        claimed = await queue.claim(["other"], 1, 10.0)
    assert Counter(each.deliveries for each in claimed) == {1: 1}
    await queue.done(claimed[0])
    await queue.close()
    await redis.close()
