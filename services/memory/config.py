"""What memory is told. Variables: `MYRIAD_MEMORY_<FIELD>`."""

from dataclasses import dataclass

from services.kit.config import secret

_DAY_S = 86_400.0


@dataclass(frozen=True)
class Config:
    """Defaults are for one machine."""

    redis_url: str = secret("redis://127.0.0.1:6379")
    """Redis: `redis://[user:password@]host:port`, or `redis+cluster://host:port,host:port`."""

    redis_connections: int = 32
    """Calls to Redis under way at once; others wait."""

    redis_timeout: float = 1.5
    """Longest time of one call to Redis, in seconds."""

    session_ttl: float = 30 * _DAY_S
    """A session is forgotten this many seconds after its last turn."""

    log_ttl: float = _DAY_S
    """A run's log is forgotten this many seconds after its last event."""

    history_cap: int = 500
    """Messages kept of a session; the oldest go first."""

    agent_revisions: int = 100
    """Revisions kept of an agent; the oldest go first."""

    agents_per_tenant: int = 1000
    """Agents a tenant may have. ListAgents shows at most 1,000."""
