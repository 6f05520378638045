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

    redis_replicas: int = 0
    """What must not be lost when Redis fails over counts as done once so many of its replicas have it; until they do,
    calls wait, and fail in the end. 0: they may lose the last writes, and then some of a run is made again."""

    redis_disk: bool = False
    """What must not be lost counts as done once the disk has it too, that of these replicas included. It says more than
    `appendfsync everysec` promises only on a server that syncs when asked: docs/durability.md."""

    models: tuple[str, ...] = ("llm",)
    """Models agents may name; the first answers for agents that name none."""

    model_prices: tuple[str, ...] = ()
    """What models cost, each as `<model>=<prompt>/<completion>`: millionths of the operator's currency for 1,000 tokens
    read and 1,000 written. A model that is not named costs nothing."""

    gpu_models: tuple[str, ...] = ()
    """Models that agents may name, too, but that answer only in runs of the class GPU."""

    first_chunk_s: float = 20.0
    """Seconds the first piece of a model's answer may take; a model that stays silent longer counts as away."""

    nlu_timeout_s: float = 2.0
    """Seconds to wait for the understanding of an utterance; after that the turn goes on without."""

    retrieval_timeout_s: float = 3.0
    """Seconds to wait for facts; after that the turn goes on without."""

    coalesce_s: float = 0.05
    """The first piece of an answer is shown at once, later ones together after this many seconds; models are asked to
    gather so, too."""

    heartbeat_s: float = 15.0
    """A stream that has been silent for so many seconds sends a heartbeat."""

    lease_s: float = 3.0
    """A session is held so long, seconds, after it was last heard of the run that holds it; then the next may begin.
    A run at work is heard of three times as often."""

    owner_s: float = 3.0
    """A process that was not heard of for so long counts as gone, and others go on with its runs."""

    max_takeovers: int = 3
    """A run whose process was lost more often than this fails: it may be what they are lost to."""

    answer_s: float = 86_400.0
    """How long somebody has to answer a run that waits, seconds; then it goes on as if turned down."""

    tenant_weights: tuple[str, ...] = ()
    """Shares of the queues, as `tenant=weight`, above 0 and at most 100: a tenant with 2 gets twice as many turns as
    one with 1, which all others have."""

    max_attempts: int = 3
    """A run of the queue that fails for what may pass is tried so often; then it is a dead letter."""

    retry_s: float = 60.0
    """Seconds until a run of the queue that failed is tried again."""

    end_s: float = 10.0
    """After a run's own time, seconds that bringing its log to an end may take, should the store be away just then."""

    log_ttl_s: float = 86_400.0
    """How long a run's log is kept, seconds."""

    worker_concurrency: int = 16
    """Runs that a worker has at work at once."""

    worker_classes: tuple[str, ...] = ("SIMPLE", "COMPLEX")
    """Queues a worker claims from. `GPU` only where the heavy models are meant to be used."""

    worker_drain_s: float = 5.0
    """When a worker is told to stop, its runs may take so long to end, seconds; then others go on with them."""

    drain_tool_s: float = 4.0
    """When a process is told to stop, a tool call under way may take so long to end, seconds; then others go on with
    its result. One that is cut is made again under its key, or asked about."""

    queue_idle_s: float = 10.0
    """What a worker claimed and was silent about for so long, seconds, others claim."""

    max_queued: int = 100_000
    """Runs that a tenant may have in one queue; more are refused. 0: any number."""

    max_runs: int = 10_000
    """Runs at work at once in this process; more are refused."""
