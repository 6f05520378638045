"""The environment each of our services is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path

from services.kit import topology

HOST = "127.0.0.1"
"""Where everything listens: whoever reaches a service in `insecure-dev` is believed."""

DRAIN_S = 3
"""On a developer's machine nobody waits ten seconds for an open stream."""


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
    return own | _everywhere(site, service) | _settings(site)[service]


def vertical_environment(site: Site) -> dict[str, str]:
    """Variables of the one process that runs all services: they reach each other without a socket."""
    inside = replace(site, addresses={**site.addresses, **dict.fromkeys(topology.SERVICES, "inproc:")})
    merged = {
        "MYRIAD_HOST": HOST,
        "MYRIAD_PORT": _port(site.addresses["orchestrator"]),
        "MYRIAD_METRICS_PORT": _port(site.addresses["orchestrator_metrics"]),
    }
    for settings in _settings(inside).values():
        merged |= settings
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


def _settings(site: Site) -> dict[str, dict[str, str]]:
    """Variables by service: who is where."""
    addresses = {**site.addresses, **{name: grpc_target(site.addresses, name) for name in topology.SERVICES}}
    redis = f"redis://{addresses['valkey']}"
    return {
        "orchestrator": {
            "MYRIAD_ORCHESTRATOR_MEMORY_ADDRESS": addresses["memory"],
            "MYRIAD_ORCHESTRATOR_NLU_ADDRESS": addresses["nlu"],
            "MYRIAD_ORCHESTRATOR_RETRIEVAL_ADDRESS": addresses["retrieval"],
            "MYRIAD_ORCHESTRATOR_TOOLEXEC_ADDRESS": addresses["toolexec"],
            "MYRIAD_ORCHESTRATOR_TRITON_ADDRESS": addresses["triton"],
            "MYRIAD_ORCHESTRATOR_REDIS_URL": redis,
            "MYRIAD_ORCHESTRATOR_MODELS": ",".join(site.speakers),
        },
        "nlu": {
            "MYRIAD_NLU_MEMORY_ADDRESS": addresses["memory"],
            "MYRIAD_NLU_TRITON_ADDRESS": addresses["triton"],
            "MYRIAD_NLU_MODELS_DIR": str(site.models),
        },
        "retrieval": {
            "MYRIAD_RETRIEVAL_TRITON_ADDRESS": addresses["triton"],
            "MYRIAD_RETRIEVAL_MILVUS_URI": f"http://{addresses['milvus']}",
        },
        "toolexec": {
            "MYRIAD_TOOLEXEC_MEMORY_ADDRESS": addresses["memory"],
            "MYRIAD_TOOLEXEC_REDIS_URL": redis,
            "MYRIAD_TOOLEXEC_ENDPOINTS": f"crm=http://{addresses['crm']}",
        },
        "memory": {"MYRIAD_MEMORY_REDIS_URL": redis},
    }


def _port(address: str) -> str:
    return address.rsplit(":", 1)[1]
