"""Who is wired to whom in toolexec."""

from collections.abc import Callable, Mapping
from typing import Any

from myriad.toolexec.v1 import toolexec_pb2_grpc
from services.kit.agents import AgentCatalog
from services.kit.app import App, Kit
from services.kit.redis import Redis
from services.toolexec.adapters.agents import CatalogToolSource
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.guard import SystemResolver
from services.toolexec.adapters.http import HttpcoreCaller
from services.toolexec.adapters.redis import RedisResultStore
from services.toolexec.config import Config
from services.toolexec.core.execution import TOOLS, Executor, Runners
from services.toolexec.core.functions import Function, installed
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.ports import Clock
from services.toolexec.servicer import ToolExecServicer


async def build(config: Config, kit: Kit, functions: Callable[[Clock], Mapping[str, Function]] = installed) -> App:
    """Opens what toolexec needs.

    Args:
        config: The configuration.
        kit: What the process shares.
        functions: Makes the functions the operator installs, by name.

    Raises:
        ValueError: an endpoint, a port or the URL of Redis cannot be used.
    """
    clock = SystemClock()
    redis = Redis(config.redis_url)
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
    servicer = ToolExecServicer(executor)

    async def close_resolver() -> None:
        resolver.close()

    def add_to(server: Any) -> None:
        toolexec_pb2_grpc.add_ToolExecServiceServicer_to_server(servicer, server)

    return App(
        name="toolexec",
        add_to=add_to,
        checks={"redis": redis.check},
        closers=[redis.close, close_resolver, caller.close],
    )
