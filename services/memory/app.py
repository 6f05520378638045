"""Builds memory: who is wired to whom."""

from myriad.memory.v1 import memory_pb2_grpc
from services.kit.app import App, Kit
from services.kit.redis import Redis
from services.memory.adapters.redis import RedisSessionStore
from services.memory.adapters.redis_agents import RedisAgentStore
from services.memory.config import Config
from services.memory.core.agents import Agents
from services.memory.core.sessions import Sessions
from services.memory.core.turns import Turns
from services.memory.domain import Lifetimes
from services.memory.servicer import MemoryServicer


async def build(config: Config, kit: Kit) -> App:
    """The service, over the Redis that the configuration names."""
    redis = Redis(config.redis_url, connections=config.redis_connections, timeout=config.redis_timeout)
    lifetimes = Lifetimes(
        session_ms=int(config.session_ttl * 1000), log_ms=int(config.log_ttl * 1000), history_cap=config.history_cap
    )
    sessions = RedisSessionStore(redis, lifetimes)
    agents = RedisAgentStore(redis, revisions_kept=config.agent_revisions, agents_allowed=config.agents_per_tenant)
    servicer = MemoryServicer(Sessions(sessions, agents), Turns(sessions), Agents(agents))
    return App(
        name="memory",
        add_to=lambda server: memory_pb2_grpc.add_MemoryServiceServicer_to_server(servicer, server),
        checks={"redis": redis.check},
        closers=[redis.close],
    )
