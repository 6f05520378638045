"""The environment each of our services is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from pathlib import Path

from services.dev import users
from services.kit import topology

HOST = "127.0.0.1"
"""Where everything listens: whoever reaches a service in `insecure-dev` is believed."""

DRAIN_S = 3
"""On a developer's machine nobody waits ten seconds for an open stream."""

NOTICE_S = 1
"""Envoy looks every 0.75 s whether a replica is well."""

CALLBACK_SECRET = "known to everyone and good for one machine only"
"""What the callbacks of a developer's stack are signed with."""


@dataclass(frozen=True)
class Site:
    """What the services of one stack have to know of it."""

    addresses: Mapping[str, str]
    """host:port by name: every service and engine, and `<service>_metrics`. A service's second replica is
    `<service>-2`, with `<service>-2_metrics`."""

    models: Path
    """Folder of nlu's trained models."""

    speakers: tuple[str, ...]
    """Triton's models that agents may name; the first answers for agents that name none."""

    keys: Path = Path()
    """Folder of the mesh's token and of the certificates."""

    auth: bool = False
    """Whether the services ask for the mesh's token. False: identity is believed as sent."""

    tls: bool = False
    """Whether the services speak TLS, and only to who has a certificate of the same authority."""

    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Password by user of the store. A service that is no user of it has nothing to do there."""


def replicas(addresses: Mapping[str, str], service: str) -> list[str]:
    """Names of the replicas of a service: its own, then `<service>-2` and so on."""
    others = takewhile(lambda name: name in addresses, (f"{service}-{number}" for number in count(2)))
    return [service, *others]


def reach(addresses: Mapping[str, str], service: str) -> tuple[str, ...]:
    """host:port of every replica of a service."""
    return tuple(addresses[name] for name in replicas(addresses, service))


def grpc_target(addresses: Mapping[str, str], service: str) -> str:
    """What a gRPC channel is told to reach a service: its address; of several replicas, all of theirs.

    Source: grpc's name resolution, scheme `ipv4`.
    """
    found = reach(addresses, service)
    return found[0] if len(found) == 1 else f"ipv4:{','.join(found)}"


def service_environment(service: str, site: Site, replica: str | None = None) -> dict[str, str]:
    """Variables of one service that runs as its own process; `replica` is its name if it is not the first one."""
    name = replica or service
    own = {
        "MYRIAD_HOST": HOST,
        "MYRIAD_PORT": _port(site.addresses[name]),
        "MYRIAD_METRICS_PORT": _port(site.addresses[f"{name}_metrics"]),
    }
    if service == "orchestrator" and len(reach(site.addresses, service)) > 1:
        own["MYRIAD_NOTICE_S"] = str(NOTICE_S)
    return own | _everywhere(site, service) | _settings(site, service)


def vertical_environment(site: Site) -> dict[str, str]:
    """Variables of the one process that runs all services: they reach each other without a socket."""
    inside = replace(site, addresses={**site.addresses, **dict.fromkeys(topology.SERVICES, "inproc:")})
    merged = {
        "MYRIAD_HOST": HOST,
        "MYRIAD_PORT": _port(site.addresses["orchestrator"]),
        "MYRIAD_METRICS_PORT": _port(site.addresses["orchestrator_metrics"]),
    }
    for service in topology.SERVICES:
        merged |= _settings(inside, service)
    return merged | _everywhere(site, "vertical")


def base_environment(environ: Mapping[str, str], mark: tuple[str, str]) -> dict[str, str]:
    """What every process of the stack inherits: `environ`, its mark, and no proxy towards this machine."""
    return {**environ, **without_proxy(environ), mark[0]: mark[1], "PYTHONUNBUFFERED": "1"}


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep calls to this machine away from a proxy; what was excepted already still is."""
    excepted = [*environ.get("no_proxy", "").split(","), *environ.get("NO_PROXY", "").split(","), HOST, "localhost"]
    no_proxy = ",".join(dict.fromkeys(name.strip() for name in excepted if name.strip()))
    return {"no_proxy": no_proxy, "NO_PROXY": no_proxy}


def _everywhere(site: Site, certificate: str) -> dict[str, str]:
    # A request's vectors are small: threads of the algebra library would only wait for each other.
    common = {"MYRIAD_DRAIN_S": str(DRAIN_S), "OPENBLAS_NUM_THREADS": "1"}
    if site.auth:
        common |= {"MYRIAD_AUTH": "mesh", "MYRIAD_MESH_TOKEN_FILE": str(site.keys / "mesh.token")}
    else:
        common |= {"MYRIAD_AUTH": "insecure-dev"}
    if site.tls:
        common |= {
            "MYRIAD_TLS_CERTIFICATE_FILE": str(site.keys / f"{certificate}.pem"),
            "MYRIAD_TLS_KEY_FILE": str(site.keys / f"{certificate}.key"),
            "MYRIAD_TLS_CA_FILE": str(site.keys / "ca.pem"),
        }
    return common


def _settings(site: Site, service: str) -> dict[str, str]:
    """A service's own variables: where what it needs is, and what only this stack knows."""
    reads = "orchestrator" if service == topology.WORKER.name else service
    where = dict(_where(site, need, reads) for need in topology.PROCESSES[service].needs)
    return {f"MYRIAD_{reads.upper()}_{name}": value for name, value in (where | _special(site, service)).items()}


def _where(site: Site, need: str, service: str) -> tuple[str, str]:
    """Name and value of the setting that leads a service to a part."""
    if need == "valkey":
        return "REDIS_URL", users.url(site.addresses[need], service, site.passwords)
    if need == "milvus":
        return "MILVUS_URI", f"http://{site.addresses[need]}"
    return f"{need.upper()}_ADDRESS", grpc_target(site.addresses, need)


def _special(site: Site, service: str) -> dict[str, str]:
    """Settings that few services have."""
    if service in {"orchestrator", topology.WORKER.name}:
        return {"MODELS": ",".join(site.speakers)}
    if service == "nlu":
        return {"MODELS_DIR": str(site.models)}
    if service == "toolexec":
        return {"ENDPOINTS": f"crm=http://{site.addresses['crm']}", "CALLBACK_SECRETS": CALLBACK_SECRET}
    return {}


def _port(address: str) -> str:
    return address.rsplit(":", 1)[1]
