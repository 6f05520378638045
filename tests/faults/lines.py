"""Who calls whom in a stack, and how a proxy is put between them before its first process starts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.dev.part import Part
from services.dev.stack import Stack
from services.kit import topology
from tests.support.proxy import Proxy

Link = tuple[str, str]
"""Who calls whom."""

CLIENTS = "clients"
"""Who calls Envoy: whoever asks a stack where it is."""

LINKS: Sequence[Link] = (
    ("memory", "valkey"),
    ("orchestrator", "toolexec"),
    ("retrieval", "milvus"),
)
"""The few that are cut now and then. A line through a proxy is slower, and a dead part behind it takes connections."""

ALL_LINKS: Sequence[Link] = (
    (CLIENTS, "envoy"),
    ("envoy", "orchestrator"),
    *((name, need) for name, process in topology.PROCESSES.items() for need in process.needs),
)
"""Those of a stack without replicas."""


def put_between(stack: Stack, link: Link, proxy: Proxy, address: str) -> None:
    """Tells a caller the address of a proxy instead of its callee's."""
    caller, callee = link
    before = stack.address(callee)
    proxy.port = int(before.rpartition(":")[2])
    parts = stack.supervisor.parts
    if caller == CLIENTS:
        stack.state.addresses[callee] = address
    elif caller == "envoy":
        argv = parts[caller].launch.argv
        file = Path(argv[argv.index("-c") + 1])
        then, now = (f"port_value: {each.rpartition(':')[2]}\n" for each in (before, address))
        file.write_text(file.read_text().replace(then, now))
    for name, part in parts.items():
        if name.partition("-")[0] == caller in topology.PROCESSES:
            moved = {key: value.replace(before, address) for key, value in part.launch.env.items()}
            parts[name] = with_variables(part, moved)


def with_variables(part: Part, variables: Mapping[str, str]) -> Part:
    """A part with these variables."""
    return dataclasses.replace(part, launch=dataclasses.replace(part.launch, env=variables))
