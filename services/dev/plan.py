"""What a stack is made of: every part with its address, how it is started, and what it needs."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.dev import readiness
from services.dev.engines import Launch, envoy, milvus, triton, valkey
from services.dev.environment import HOST, Site, service_environment, vertical_environment
from services.dev.part import Part
from services.dev.ports import Ports
from services.dev.state import Folder
from services.kit import topology

ROOT = Path(__file__).resolve().parents[2]
VERTICAL = "vertical"
"""Name of the one part that runs all services."""

_NEEDS: Mapping[str, tuple[str, ...]] = {
    "memory": ("valkey",),
    "nlu": ("memory", "triton"),
    "retrieval": ("milvus", "triton"),
    "toolexec": ("memory", "valkey"),
    "orchestrator": ("memory", "nlu", "retrieval", "toolexec", "triton", "valkey"),
}
_ENGINES = ("valkey", "milvus", "triton", "crm")
_TRITON_START_S = 180.0
_SERVICE_START_S = 240.0
"""A service is ready when all it needs is: longer than the slowest engine."""


@dataclass(frozen=True)
class Options:
    """What kind of stack."""

    vertical: bool = False
    """All services in one process."""

    sim: bool = False
    """Triton also serves `sim_llm`, the model that plays a script, and agents may name it."""


def choose_addresses(ports: Ports, *, vertical: bool) -> dict[str, str]:
    """host:port by name of everything that listens; the topology's ports, or the next free ones."""
    wanted = {name: endpoint.port for name, endpoint in topology.ENDPOINTS.items()}
    for name, service in topology.SERVICES.items():
        wanted |= {name: service.port, f"{name}_metrics": service.metrics_port}
    addresses = {name: f"{HOST}:{ports.choose(port)}" for name, port in wanted.items()}
    if vertical:  # one process listens once, for all
        addresses |= dict.fromkeys(topology.SERVICES, addresses["orchestrator"])
    return addresses


def plan(folder: Folder, addresses: Mapping[str, str], options: Options) -> list[Part]:
    """Every part after those it needs. Writes what they read at their start into `folder`.

    Raises:
        FileNotFoundError: the environments lack something.
    """
    speakers = ("llm", "sim_llm") if options.sim else ("llm",)
    site = Site(addresses, folder.models, speakers)
    return [*_engines(folder, addresses, speakers), *_services(site, options), _edge(folder, addresses, options)]


def _engines(folder: Folder, addresses: Mapping[str, str], speakers: Sequence[str]) -> list[Part]:
    def work(name: str, base: Path = folder.data) -> Path:
        (base / name).mkdir(parents=True, exist_ok=True)
        return base / name

    port = {name: int(address.rsplit(":", 1)[1]) for name, address in addresses.items()}
    launches = {
        "valkey": valkey.launch(python=None, work=work("valkey"), port=port["valkey"]),
        "milvus": milvus.launch(python=None, work=work("milvus"), port=port["milvus"]),
        "triton": triton.launch(
            python=ROOT / ".venv-triton" / "bin" / "python",
            repository=ROOT / "triton_repo",
            work=work("triton", folder.run),
            grpc_port=port["triton"],
            metrics_port=port["triton_metrics"],
            models=("embedder", *speakers),
        ),
        "crm": Launch((sys.executable, "-m", "examples.crm", "--port", str(port["crm"])), {}),
    }
    slow = {"triton": _TRITON_START_S}
    return [
        Part(name, addresses[name], launches[name], probe_of(name, addresses), start_timeout_s=slow.get(name, 60.0))
        for name in _ENGINES
    ]


def _services(site: Site, options: Options) -> list[Part]:
    if options.vertical:
        return [_python(VERTICAL, "orchestrator", vertical_environment(site), site, _ENGINES)]
    names = sorted(topology.SERVICES, key=_depth)
    return [_python(name, name, service_environment(name, site), site, _NEEDS[name]) for name in names]


def _python(module: str, listens_as: str, variables: Mapping[str, str], site: Site, needs: tuple[str, ...]) -> Part:
    launch = Launch((sys.executable, "-m", f"services.{module}"), variables, stop_grace_s=10.0)
    probe = probe_of(module, site.addresses)
    # Python takes a second or more to import: that overlaps with the start of the engines.
    return Part(module, site.addresses[listens_as], launch, probe, needs, False, _SERVICE_START_S)


def _depth(service: str) -> int:
    """How many services must be there before this one, one after the other."""
    return max((1 + _depth(name) for name in _NEEDS[service] if name in _NEEDS), default=0)


def _edge(folder: Folder, addresses: Mapping[str, str], options: Options) -> Part:
    committed = (ROOT / "envoy" / "envoy.yaml").read_text()
    configuration = folder.run / "envoy.yaml"
    configuration.write_text(envoy.localise(committed, addresses, ROOT / "envoy" / "descriptors.pb"))
    needs = (VERTICAL,) if options.vertical else ("orchestrator",)
    return Part("envoy", addresses["envoy"], envoy.launch(configuration), probe_of("envoy", addresses), needs)


def probe_of(part: str, addresses: Mapping[str, str]) -> readiness.Probe:
    """How to see that a part answers."""
    if part == "valkey":
        return readiness.valkey(addresses[part])
    if part == "milvus":
        return readiness.milvus(addresses[part])
    if part == "crm":
        return readiness.http(addresses[part], "/healthz")
    if part == "envoy":
        return readiness.http(addresses["envoy_admin"], "/ready")
    if part == VERTICAL:
        return readiness.health(addresses["orchestrator"], *(row.proto_service for row in topology.SERVICES.values()))
    if part == "triton":
        return readiness.health(addresses[part])  # of the server: every model is loaded
    # By name: a service that has not looked yet at what it needs is unknown, not well.
    return readiness.health(addresses[part], topology.SERVICES[part].proto_service)
