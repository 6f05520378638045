"""Configuration of the orchestrator: `MYRIAD_ORCHESTRATOR_<FIELD>`."""

from dataclasses import dataclass

from services.kit.config import secret


@dataclass(frozen=True)
class Config:
    """What the orchestrator is told. An address is `host:port`, or `inproc:` for this process."""

    memory_address: str = "127.0.0.1:7104"
    """The memory service."""

    nlu_address: str = "127.0.0.1:7101"
    """The nlu service."""

    retrieval_address: str = "127.0.0.1:7102"
    """The retrieval service."""

    toolexec_address: str = "127.0.0.1:7103"
    """The toolexec service."""

    triton_address: str = "127.0.0.1:8001"
    """The model tier."""

    redis_url: str = secret("redis://127.0.0.1:6379")
    """Store of run logs: the one memory keeps its sessions in."""

    models: tuple[str, ...] = ("llm",)
    """Models agents may name; the first answers for agents that name none."""

    first_chunk_s: float = 20.0
    """Seconds the first piece of a model's answer may take; a model that stays silent longer counts as away."""

    nlu_timeout_s: float = 2.0
    """Seconds to wait for the understanding of an utterance; after that the turn goes on without."""

    retrieval_timeout_s: float = 3.0
    """Seconds to wait for facts; after that the turn goes on without."""

    coalesce_s: float = 0.05
    """The first piece of an answer is shown at once, later ones together after this many seconds."""

    heartbeat_s: float = 15.0
    """A stream that has been silent for so many seconds sends a heartbeat."""

    lease_s: float = 3.0
    """A session is held so long, seconds, after it was last heard of the run that holds it; then the next may begin.
    A run at work is heard of three times as often."""

    owner_s: float = 3.0
    """A process that was not heard of for so long counts as gone, and others go on with its runs."""

    max_takeovers: int = 3
    """A run whose process was lost more often than this fails: it may be what they are lost to."""

    end_s: float = 10.0
    """After a run's own time, seconds that bringing its log to an end may take, should the store be away just then."""

    log_ttl_s: float = 86_400.0
    """How long a run's log is kept, seconds."""

    max_runs: int = 10_000
    """Runs at work at once in this process; more are refused."""
