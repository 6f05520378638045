"""Puts the orchestrator together: who is wired to whom."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from myriad.orchestrator.v1 import orchestrator_pb2_grpc
from services.kit.app import App, Check, Closer, Kit
from services.kit.clients import Client
from services.kit.interceptors.idempotency import idempotency
from services.kit.queue import RUN_QUEUES, Queue
from services.kit.queue_redis import RedisQueue
from services.kit.queue_watch import QueueWatch
from services.kit.redis import Redis
from services.kit.replies import Replies
from services.kit.replies_redis import RedisReplies
from services.kit.telemetry import Telemetry
from services.kit.triton import MODELS, Triton
from services.orchestrator.adapters.memory import MemoryAgents, MemoryDirectory, MemoryTurns
from services.orchestrator.adapters.nlu import NluClient
from services.orchestrator.adapters.redis import RedisRunLog
from services.orchestrator.adapters.redis_callbacks import RedisCallbackStore
from services.orchestrator.adapters.redis_dead_letters import RedisDeadLetters
from services.orchestrator.adapters.redis_events import RedisEvents
from services.orchestrator.adapters.redis_feedback import RedisFeedbackStore
from services.orchestrator.adapters.redis_notices import RedisNotices
from services.orchestrator.adapters.redis_owners import RedisOwners
from services.orchestrator.adapters.redis_run_ends import RedisRunEnds
from services.orchestrator.adapters.retrieval import RetrievalClient
from services.orchestrator.adapters.toolexec import ToolExecClient
from services.orchestrator.adapters.triton import TritonModel
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.core.callbacks import Callbacks
from services.orchestrator.core.dead_letters import DeadLetterBox
from services.orchestrator.core.event_feed import EventFeed
from services.orchestrator.core.events import EventBus
from services.orchestrator.core.feedback import Feedback, count_feedback
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.core.runs import Runs
from services.orchestrator.core.worker import Worker
from services.orchestrator.domain.events import EventType
from services.orchestrator.event_codec import read_end
from services.orchestrator.happenings import Happenings
from services.orchestrator.letters import Letters
from services.orchestrator.ports.store import Events
from services.orchestrator.servicer import OrchestratorServicer

_EVENT_CONNECTIONS = 4
_IDEMPOTENT_BY_THEMSELVES = frozenset({"CreateSession", "ForkSession", "CreateRun"})
"""Memory keeps what these made."""


async def build(config: Config, kit: Kit) -> App:
    """The orchestrator, ready to be served."""
    parts = _open(config, kit)
    parts.runs.start()
    return _serving(config, parts)


async def build_worker(config: Config, kit: Kit) -> App:
    """A worker: it answers nobody, and works on the runs of its classes of the queue."""
    parts = _open(config, kit, config.worker_classes)
    parts.runs.start()
    worker = _work(config, parts)
    drain = partial(worker.drain, config.worker_drain_s)
    closers: list[Closer] = [*parts.closers, drain]
    return App("worker", lambda server: None, checks=parts.checks, closers=closers, drainers=[worker.stop])


async def build_both(config: Config, kit: Kit) -> App:
    """The orchestrator with a worker inside, where all is one process."""
    parts = _open(config, kit, config.worker_classes)
    parts.runs.start()
    worker = _work(config, parts)
    serving = _serving(config, parts)
    drain = partial(worker.drain, config.worker_drain_s)
    return replace(serving, closers=[*serving.closers, drain], drainers=[*serving.drainers, worker.stop])


@dataclass(frozen=True)
class _Parts:
    """What the orchestrator and its workers have in common."""

    telemetry: Telemetry
    memory: Client
    queue: Queue
    runs: Runs
    replies: Replies
    bus: EventBus
    events: Events
    feedback: Feedback
    letters: Letters
    checks: Mapping[str, Check]
    closers: Sequence[Closer]


def _work(config: Config, parts: _Parts) -> Worker:
    """Begins to work on the queue."""
    worker = Worker(
        parts.queue,
        parts.runs.take,
        parts.runs.give_up,
        queues=config.worker_classes,
        places=config.worker_concurrency,
        idle_s=config.queue_idle_s,
        retry_s=config.retry_s,
        telemetry=parts.telemetry,
    )
    worker.start()
    return worker


def _serving(config: Config, parts: _Parts) -> App:
    feed = EventFeed(parts.events, config.heartbeat_s)
    happenings = Happenings(parts.bus, feed, parts.feedback)
    servicer = OrchestratorServicer(parts.runs, MemoryDirectory(parts.memory), happenings, parts.letters)
    return App(
        name="orchestrator",
        add_to=lambda server: orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, server),
        checks=parts.checks,
        closers=[*parts.closers, feed.close],
        leavers=[feed.close, parts.runs.close],
        interceptors=[idempotency(parts.replies, _IDEMPOTENT_BY_THEMSELVES)],
    )


def _open(config: Config, kit: Kit, classes: Sequence[str] = ()) -> _Parts:
    memory = kit.network.client("memory", config.memory_address)
    open_redis = partial(Redis, config.redis_url, replicas=config.redis_replicas, disk=config.redis_disk)
    redis = open_redis()
    triton = Triton(
        kit.network.client("triton", config.triton_address),
        breakers=kit.breakers(MODELS),
        first_chunk_s=config.first_chunk_s,
    )
    run_log = RedisRunLog(redis, config.log_ttl_s, config.lease_s)
    codec = EventCodec()
    notices = RedisNotices(redis)
    queue = RedisQueue(redis, uuid.uuid4().hex, config.queue_idle_s, config.max_queued)
    tools = ToolExecClient(kit.network.client("toolexec", config.toolexec_address))
    callbacks = Callbacks(RedisCallbackStore(redis), queue, tools)
    dead_letters = RedisDeadLetters(redis)
    for_events = open_redis(connections=_EVENT_CONNECTIONS)
    events = RedisEvents(for_events)
    bus = EventBus(events, kit.telemetry.events)
    bus.register(EventType.FEEDBACK_RECEIVED, "feedback metrics", count_feedback(kit.telemetry.events))
    runs = Runs(
        memory=MemoryTurns(memory),
        agents=MemoryAgents(memory),
        nlu=NluClient(kit.network.client("nlu", config.nlu_address), config.nlu_timeout_s),
        retrieval=RetrievalClient(
            kit.network.client("retrieval", config.retrieval_address), config.retrieval_timeout_s
        ),
        tools=tools,
        model=TritonModel(triton, config.coalesce_s),
        run_log=run_log,
        codec=codec,
        events=RunEvents(bus, RedisRunEnds(redis), read_end, callbacks.send_again),
        owners=RedisOwners(redis, config.owner_s),
        notices=notices,
        queue=queue,
        callbacks=callbacks,
        dead_letters=dead_letters,
        metrics=kit.telemetry.queues,
        config=config,
        classes=classes,
    )
    watch = QueueWatch(queue, RUN_QUEUES, kit.telemetry.queues)
    watch.start()
    closers = [run_log.close, for_events.close, bus.close, notices.close, queue.close, runs.close, watch.stop]
    return _Parts(
        telemetry=kit.telemetry,
        memory=memory,
        queue=queue,
        runs=runs,
        replies=RedisReplies(redis),
        bus=bus,
        events=events,
        feedback=Feedback(RedisFeedbackStore(redis), bus),
        letters=Letters(DeadLetterBox(dead_letters, runs.begin, run_log, codec)),
        checks={"redis": run_log.check},
        closers=closers,
    )
