"""The one table of what listens where: names, default ports and time budgets of every part of the stack.

Readers: Envoy's renderer, the launcher in `services.dev`, the tests of the manifests and of the README's table.
The name of a row is also its folder, proto package, Envoy cluster, k8s object and `service.name`.
"""

from dataclasses import dataclass
from types import MappingProxyType

METRICS_OFFSET = 100
"""A service's Prometheus endpoint listens this many ports above its gRPC port."""

STREAM_TIMEOUT_S = 900.0
"""Longest time of a stream; a client resumes by its cursor."""

MOST_HELD = 12_000
"""Streams, and connections of clients, that one process holds at once: ten thousand users, and room."""


@dataclass(frozen=True)
class Service:
    """One of our gRPC services."""

    name: str
    """The bare word used everywhere."""

    port: int
    """Default gRPC port."""

    proto_service: str
    """Full name of the proto service. Empty: it answers none."""

    public: bool
    """Whether Envoy has a route to any of its methods."""

    timeout_s: float
    """Longest a unary call to it may take, in seconds: the route's deadline at Envoy and the cap in our channels."""

    needs: tuple[str, ...]
    """What it calls, services and endpoints by name: on one machine it starts after them and is told where they are.
    Its configuration says `<name>_address`; of Valkey `redis_url`, of Milvus `milvus_uri`."""

    @property
    def metrics_port(self) -> int:
        """Default port of the Prometheus endpoint."""
        return self.port + METRICS_OFFSET


@dataclass(frozen=True)
class Endpoint:
    """Something that listens and is not one of our services."""

    name: str
    port: int
    loopback: bool = False
    """Whether it must never be reachable from another machine."""


_SERVICES = (
    Service(
        "orchestrator",
        7100,
        "myriad.orchestrator.v1.OrchestratorService",
        public=True,
        timeout_s=30.0,
        needs=("memory", "nlu", "retrieval", "toolexec", "triton", "valkey"),
    ),
    Service("nlu", 7101, "myriad.nlu.v1.NluService", public=False, timeout_s=2.0, needs=("memory", "triton")),
    Service(
        "retrieval",
        7102,
        "myriad.retrieval.v1.RetrievalService",
        public=False,
        timeout_s=30.0,
        needs=("milvus", "triton"),
    ),
    Service(
        "toolexec",
        7103,
        "myriad.toolexec.v1.ToolExecService",
        public=False,
        timeout_s=65.0,
        needs=("memory", "valkey"),
    ),
    Service("memory", 7104, "myriad.memory.v1.MemoryService", public=False, timeout_s=2.0, needs=("valkey",)),
)
SERVICES = MappingProxyType({service.name: service for service in _SERVICES})

WORKER = Service("worker", 7110, "", public=False, timeout_s=30.0, needs=SERVICES["orchestrator"].needs)
"""`python -m services.orchestrator worker`: it claims runs from the queue, and nobody calls it."""

PROCESSES = MappingProxyType({**SERVICES, WORKER.name: WORKER})
"""What runs as processes of its own."""

ENDPOINTS = MappingProxyType(
    {
        endpoint.name: endpoint
        for endpoint in (
            Endpoint("envoy", 8080),
            Endpoint("envoy_admin", 9901, loopback=True),
            Endpoint("triton", 8001),
            Endpoint("triton_metrics", 8002),
            Endpoint("milvus", 19530),
            Endpoint("valkey", 6379),
            Endpoint("crm", 7180, loopback=True),
        )
    }
)
