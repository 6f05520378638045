"""What memory is told. Variables: `MYRIAD_MEMORY_<FIELD>`."""

from dataclasses import dataclass

from services.kit.config import secret

_DAY_S = 86_400.0


@dataclass(frozen=True)
class Config:
    """Defaults are for one machine."""

    redis_url: str = secret("redis://127.0.0.1:6379")
    """Redis: `redis://[user:password@]host:port`, `redis+sentinel://host:port,host:port/service`, or
    `redis+cluster://host:port,host:port`."""

    redis_connections: int = 32
    """Calls to Redis under way at once; others wait."""

    redis_timeout: float = 1.5
    """Longest time of one call to Redis, in seconds."""

    redis_replicas: int = 0
    """What must not be lost when Redis fails over counts as done once so many of its replicas have it; until they do,
    calls wait, and fail in the end. 0: they may lose the last writes, and then some of a run is made again."""

    redis_disk: bool = False
    """What must not be lost counts as done once the disk has it too, that of these replicas included. It says more than
    `appendfsync everysec` promises only on a server that syncs when asked: docs/durability.md."""

    session_ttl: float = 30 * _DAY_S
    """A session is forgotten this many seconds after its last turn."""

    log_ttl: float = _DAY_S
    """A run's log is forgotten this many seconds after its last event."""

    history_cap: int = 500
    """Messages kept of a session; the oldest go first."""

    line_cap: int = 100
    """Runs of one session that wait for their turn; more are refused."""

    agent_revisions: int = 100
    """Revisions kept of an agent; the oldest go first."""

    agents_per_tenant: int = 1000
    """Agents a tenant may have. ListAgents shows at most 1,000."""

    reserved_tokens: int = 10_000
    """Where tokens are limited, so many are set apart for a run whose next step is not known yet, as when it is gone on
    with, or what is left. A step that needs more has more set apart. What is not used is given back when the run ends,
    or begins to wait."""

    reserved_cost_micros: int = 100_000
    """As `reserved_tokens`: money, in millionths of the operator's currency."""

    reserved_tool_calls: int = 16
    """As `reserved_tokens`: tool calls."""

    reserved_s: float = 600.0
    """As `reserved_tokens`: time at work, in seconds. It is all that a run gets that is gone on with."""

    reservation_ttl: float = 900.0
    """What was set apart for a run at work is given back after so many seconds, should its end not be heard of."""
