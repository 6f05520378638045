"""What a stack is made of: every part with its address, how it is started, and what it needs."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.dev import readiness
from services.dev.engines import Launch, envoy, milvus, triton, valkey
from services.dev.environment import HOST, Site, reach, replicas, service_environment, vertical_environment
from services.dev.part import Part
from services.dev.ports import Ports
from services.dev.state import ROOT, Folder
from services.dev.users import ACL_FILE, make_users
from services.kit import topology

VERTICAL = "vertical"
"""Name of the one part that runs all services, and a worker."""

_ENGINES = ("valkey", "milvus", "triton", "crm")
MOST_REPLICAS = 9
"""On one machine more are a mistake."""

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

    auth: bool = False
    """Envoy asks for a token, and the services for the mesh's. False: identity is believed as sent."""

    tls: bool = False
    """Envoy and the services speak TLS, with certificates made here."""

    replicas: Mapping[str, int] = field(default_factory=dict)
    """How many processes a service runs in; one if it is not named."""

    cors: tuple[str, ...] = ()
    """Origins (`http://localhost:5173`) whose pages may call Envoy from a browser."""

    def arguments(self) -> list[str]:
        """As they are typed after `myriad up`."""
        flags = {"--vertical": self.vertical, "--with-sim": self.sim, "--auth": self.auth, "--tls": self.tls}
        words = [flag for flag, wanted in flags.items() if wanted]
        words += [word for name, many in self.replicas.items() for word in ("--replicas", f"{name}={many}")]
        return words + [word for origin in self.cors for word in ("--cors", origin)]


def choose_addresses(ports: Ports, options: Options) -> dict[str, str]:
    """host:port by name of everything that listens; the topology's ports, or the next free ones.

    Raises:
        ValueError: the options name a service or a number of replicas that cannot be.
    """
    _check(options)
    wanted = {name: endpoint.port for name, endpoint in topology.ENDPOINTS.items()}
    for name, service in (topology.SERVICES if options.vertical else topology.PROCESSES).items():
        wanted |= {name: service.port, f"{name}_metrics": service.metrics_port}
    for name, many in options.replicas.items():
        service = topology.PROCESSES[name]
        for number in range(2, many + 1):
            wanted |= {f"{name}-{number}": service.port, f"{name}-{number}_metrics": service.metrics_port}
    addresses = {name: f"{HOST}:{ports.choose(port)}" for name, port in wanted.items()}
    if options.vertical:  # one process listens once, for all
        addresses |= dict.fromkeys(topology.SERVICES, addresses["orchestrator"])
    return addresses


def _check(options: Options) -> None:
    if options.vertical and options.replicas:
        raise ValueError("all services in one process have no replicas: --vertical or --replicas, not both")
    for name, many in options.replicas.items():
        if name not in topology.PROCESSES:
            raise ValueError(f"there is no service {name!r} to replicate; there are {', '.join(topology.PROCESSES)}")
        if not 1 <= many <= MOST_REPLICAS:
            raise ValueError(f"a service has 1 to {MOST_REPLICAS} replicas, not {many}")


def plan(folder: Folder, addresses: Mapping[str, str], options: Options) -> list[Part]:
    """Every part after those it needs. Writes what they read at their start into `folder`, keys included.

    Raises:
        FileNotFoundError: the environments lack something.
    """
    _make_keys(folder, options)
    speakers = ("llm", "sim_llm") if options.sim else ("llm",)
    passwords = make_users(folder.store)
    site = Site(addresses, folder.models, speakers, folder.keys, options.auth, options.tls, passwords)
    return [*_engines(folder, addresses, speakers), *_services(site, options), _edge(folder, addresses, options)]


def _make_keys(folder: Folder, options: Options) -> None:
    # Not at the top: every command would wait for the cryptography that few stacks need.
    if options.auth:
        from services.dev.identity import make_keys

        make_keys(folder.keys)
    if options.tls:
        from services.dev.certificates import OPERATOR, make_certificates

        holders = {name: [name] for name in ("envoy", OPERATOR, *topology.PROCESSES)}
        make_certificates(folder.keys, {**holders, VERTICAL: list(topology.SERVICES)})


def _engines(folder: Folder, addresses: Mapping[str, str], speakers: Sequence[str]) -> list[Part]:
    def work(name: str, base: Path = folder.data) -> Path:
        (base / name).mkdir(parents=True, exist_ok=True)
        return base / name

    port = {name: int(address.rsplit(":", 1)[1]) for name, address in addresses.items()}
    launches = {
        "valkey": valkey.launch(python=None, work=work("valkey"), port=port["valkey"], users=folder.store / ACL_FILE),
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
        Part(
            name,
            addresses[name],
            launches[name],
            probe_of(name, addresses),
            start_timeout_s=slow.get(name, 60.0),
            # A model's process that died is never started again by the server; a model that is loaded anew has the
            # streams of the one before hang for ever.
            needs_crew=name == "triton",
        )
        for name in _ENGINES
    ]


def _services(site: Site, options: Options) -> list[Part]:
    if options.vertical:
        return [_python(VERTICAL, (VERTICAL,), "orchestrator", vertical_environment(site), site, _ENGINES)]
    parts = []
    for service in sorted(topology.PROCESSES, key=_depth):
        needs = tuple(part for name in topology.PROCESSES[service].needs for part in replicas(site.addresses, name))
        for name in replicas(site.addresses, service):
            variables = service_environment(service, site, name)
            words = ("orchestrator", "worker") if service == topology.WORKER.name else (service,)
            parts.append(_python(name, words, name, variables, site, needs))
    return parts


def _python(
    name: str, words: tuple[str, ...], listens_as: str, variables: Mapping[str, str], site: Site, needs: tuple[str, ...]
) -> Part:
    module, *arguments = words
    launch = Launch((sys.executable, "-m", f"services.{module}", *arguments), variables, stop_grace_s=10.0)
    probe = probe_of(name, site.addresses, site.keys if site.tls else None)
    # Python takes a second or more to import: that overlaps with the start of the engines.
    return Part(name, site.addresses[listens_as], launch, probe, needs, False, _SERVICE_START_S)


def _depth(service: str) -> int:
    """How many services must be there before this one, one after the other."""
    needs = topology.PROCESSES[service].needs
    return max((1 + _depth(name) for name in needs if name in topology.SERVICES), default=0)


def _edge(folder: Folder, addresses: Mapping[str, str], options: Options) -> Part:
    public = [name for name, service in topology.SERVICES.items() if service.public]
    clusters = {name: reach(addresses, name) for name in public}
    edge = {
        **envoy.local(addresses["envoy"], addresses["envoy_admin"], clusters),
        **envoy.with_keys(folder.keys, auth=options.auth, tls=options.tls),
        **envoy.spans(os.environ),  # as the services do, which inherit it
        "cors_origins": options.cors,
    }
    configuration = envoy.render(edge, folder.run / "envoy")
    needs = (VERTICAL,) if options.vertical else tuple(replicas(addresses, "orchestrator"))
    return Part("envoy", addresses["envoy"], envoy.launch(configuration), probe_of("envoy", addresses), needs)


def probe_of(part: str, addresses: Mapping[str, str], keys: Path | None = None) -> readiness.Probe:
    """How to see that a part answers.

    Args:
        part: Its name.
        addresses: Of the stack.
        keys: Folder of the certificates of a stack whose services speak TLS. None: they do not.
    """
    if part == "valkey":
        return readiness.valkey(addresses[part])
    if part == "milvus":
        return readiness.milvus(addresses[part])
    if part == "crm":
        return readiness.http(addresses[part], "/healthz")
    if part == "envoy":
        return readiness.http(addresses["envoy_admin"], "/ready")
    if part == "triton":
        return readiness.health(addresses[part])  # of the server: every model is loaded
    service = "orchestrator" if part == VERTICAL else part.partition("-")[0]
    rows = topology.SERVICES.values() if part == VERTICAL else (topology.PROCESSES[service],)
    # By name: a service that has not looked yet at what it needs is unknown, not well.
    names = [row.proto_service for row in rows if row.proto_service]
    return readiness.health(addresses[service if part == VERTICAL else part], *names, tls=_tls(keys, service))


def _tls(keys: Path | None, service: str) -> readiness.Tls | None:
    if keys is None:
        return None
    return readiness.Tls(keys / "ca.pem", keys / "operator.pem", keys / "operator.key", service)
