"""Configuration of toolexec: `MYRIAD_TOOLEXEC_<FIELD>`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from services.kit.config import secret


@dataclass(frozen=True)
class Config:
    """What toolexec is told."""

    memory_address: str = "127.0.0.1:7104"
    """Where memory answers, for the agents; `inproc:` is this process."""

    redis_url: str = secret("redis://127.0.0.1:6379")
    """Where results are kept; `redis+cluster://` for a cluster."""

    endpoints: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Name to URL of what HTTP tools may call by name, private addresses included: `crm=http://127.0.0.1:7180`."""

    public_ports: tuple[str, ...] = ("80", "443", "8080", "8443")
    """Ports of public addresses that tools may call."""

    max_running: int = 256
    """Calls of tools that may run at once; more are refused."""

    max_running_per_tool: int = 32
    """Calls of one tool of one agent that may run at once; more are refused."""

    connect_timeout_s: float = 3.0
    """Seconds to make a connection to a tool's endpoint."""
