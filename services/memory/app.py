"""Builds memory: who is wired to whom."""

from myriad.memory.v1 import memory_pb2_grpc
from services.kit.amounts import Amounts
from services.kit.app import App, Kit
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_accounts import RedisAccounts
from services.memory.adapters.redis_agents import RedisAgentStore
from services.memory.adapters.redis_budgets import RedisBudgets
from services.memory.adapters.redis_forks import RedisForkStore
from services.memory.config import Config
from services.memory.core.agents import Agents
from services.memory.core.budgets import Budgets
from services.memory.core.forks import Forks
from services.memory.core.sessions import Sessions
from services.memory.core.turns import Turns
from services.memory.domain import Lifetimes, Reserving
from services.memory.servicer import MemoryServicer


async def build(config: Config, kit: Kit) -> App:
    """The service, over the Redis that the configuration names."""
    redis = Redis(
        config.redis_url,
        connections=config.redis_connections,
        timeout=config.redis_timeout,
        replicas=config.redis_replicas,
        disk=config.redis_disk,
    )
    lifetimes = Lifetimes(
        session_ms=int(config.session_ttl * 1000),
        log_ms=int(config.log_ttl * 1000),
        history_cap=config.history_cap,
        line_cap=config.line_cap,
    )
    budgets = RedisBudgets(redis, _reserving(config))
    accounts = RedisAccounts(redis, budgets)
    sessions = RedisSessionStore(redis, lifetimes, accounts)
    agents = RedisAgentStore(redis, revisions_kept=config.agent_revisions, agents_allowed=config.agents_per_tenant)
    servicer = MemoryServicer(
        Sessions(sessions, agents),
        Turns(sessions),
        Agents(agents),
        Forks(RedisForkStore(redis, lifetimes)),
        Budgets(budgets),
    )
    return App(
        name="memory",
        add_to=lambda server: memory_pb2_grpc.add_MemoryServiceServicer_to_server(servicer, server),
        checks={"redis": redis.check},
        closers=[redis.close, accounts.close],
    )


def _reserving(config: Config) -> Reserving:
    wanted = Amounts(
        config.reserved_tokens, config.reserved_cost_micros, config.reserved_tool_calls, int(config.reserved_s * 1000)
    )
    return Reserving(wanted, int(config.reservation_ttl * 1000), int(config.session_ttl * 1000))
