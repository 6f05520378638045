"""Who is wired to whom in toolexec."""

import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from myriad.toolexec.v1 import toolexec_pb2_grpc
from services.kit.agents import AgentCatalog
from services.kit.app import App, Kit
from services.kit.queue import CALLBACK_QUEUE, TOOL_QUEUE
from services.kit.queue_redis import RedisQueue
from services.kit.queue_watch import QueueWatch
from services.kit.redis import Redis
from services.toolexec.adapters.agents import CatalogToolSource
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.guard import SystemResolver
from services.toolexec.adapters.http import HttpcoreCaller
from services.toolexec.adapters.redis import RedisResultStore
from services.toolexec.adapters.redis_executions import RedisExecutions
from services.toolexec.adapters.redis_runs import RedisCallbacks, RedisRuns
from services.toolexec.config import Config
from services.toolexec.core.background import BackgroundTools
from services.toolexec.core.background_work import BackgroundWork
from services.toolexec.core.callbacks import CallbackSender, Rules
from services.toolexec.core.consumer import Consumer
from services.toolexec.core.execution import TOOLS, Executor, Runners
from services.toolexec.core.functions import Function, installed
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.core.signing import Signer
from services.toolexec.ports import Clock
from services.toolexec.servicer import ToolExecServicer


async def build(config: Config, kit: Kit, functions: Callable[[Clock], Mapping[str, Function]] = installed) -> App:
    """Opens what toolexec needs.

    Args:
        config: The configuration.
        kit: What the process shares.
        functions: Makes the functions the operator installs, by name.

    Raises:
        ValueError: an endpoint, a port, the URL of Redis, or a key or exception of callbacks cannot be used.
    """
    clock = SystemClock()
    redis = Redis(config.redis_url, replicas=config.redis_replicas, disk=config.redis_disk)
    resolver = SystemResolver()
    caller = HttpcoreCaller(resolver, connections=config.max_running, connect_timeout=config.connect_timeout_s)
    http = HttpTools(caller, config.endpoints, frozenset(int(port) for port in config.public_ports))
    executor = Executor(
        source=CatalogToolSource(AgentCatalog(kit.network.client("memory", config.memory_address))),
        runners=Runners(functions(clock), http, kit.breakers(TOOLS)),
        store=RedisResultStore(redis),
        schemas=Schemas(),
        gate=Gate(config.max_running_per_tool, config.max_running),
        clock=clock,
    )
    queue = RedisQueue(redis, uuid.uuid4().hex, config.idle_s)
    executions = RedisExecutions(redis)
    work = BackgroundWork(
        executor,
        executions,
        RedisRuns(redis, queue),
        tools=Gate(config.max_background_per_tool, config.max_background),
        tenants=Gate(config.max_background_per_tenant, config.max_background),
    )
    callbacks = CallbackSender(
        caller,
        RedisCallbacks(redis),
        Signer(config.callback_keys, config.callback_secrets),
        _callback_rules(config),
        clock,
    )
    servicer = ToolExecServicer(executor, BackgroundTools(executor, executions, queue, work), callbacks)
    attending = partial(Consumer, queue, idle_s=config.idle_s, telemetry=kit.telemetry)
    consumers = [
        attending(TOOL_QUEUE, work.work, at_once=config.max_background),
        attending(CALLBACK_QUEUE, callbacks.work, at_once=config.max_callbacks),
    ]
    watch = QueueWatch(queue, (TOOL_QUEUE, CALLBACK_QUEUE), kit.telemetry.queues)
    watch.start()
    for consumer in consumers:
        consumer.start()

    async def close_resolver() -> None:
        resolver.close()

    def add_to(server: Any) -> None:
        toolexec_pb2_grpc.add_ToolExecServiceServicer_to_server(servicer, server)

    return App(
        name="toolexec",
        add_to=add_to,
        checks={"redis": redis.check},
        closers=[
            redis.close,
            close_resolver,
            caller.close,
            queue.close,
            watch.stop,
            *(each.stop for each in consumers),
        ],
        drainers=[each.drain for each in consumers],
        leavers=[each.stop for each in consumers],
    )


def _callback_rules(config: Config) -> Rules:
    return Rules(
        public_ports=frozenset(int(port) for port in config.public_ports),
        exceptions=config.callback_exceptions,
        attempts=config.callback_attempts,
        first_delay_s=config.callback_delay_s,
        longest_delay_s=config.callback_longest_delay_s,
        timeout_s=config.callback_timeout_s,
    )
