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
    """Where results are kept; `redis+sentinel://`, `redis+cluster://`: as memory's."""

    redis_replicas: int = 0
    """What must not be lost when Redis fails over counts as done once so many of its replicas have it; until they do,
    calls wait, and fail in the end. 0: they may lose the last writes, and then some of a run is made again."""

    redis_disk: bool = False
    """What must not be lost counts as done once the disk has it too, that of these replicas included. It says more than
    `appendfsync everysec` promises only on a server that syncs when asked: docs/durability.md."""

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

    idle_s: float = 5.0
    """What runs in the background here, and callbacks, are taken over by another process when nothing was heard of this
    one for so many seconds."""

    max_background: int = 64
    """Tools in the background that this process works on at once; more wait in the queue."""

    max_background_per_tool: int = 16
    """Of one tool of one agent; more wait in the queue."""

    max_background_per_tenant: int = 32
    """Of one tenant; more wait in the queue, while others' run."""

    callback_keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), metadata={"secret": True})
    """Tenant to the key its callbacks are signed with, `acme=whsec_<base64>`; two with a space between both sign."""

    callback_secrets: tuple[str, ...] = secret(())
    """A secret that the keys of all other tenants are derived from; two, the newer first, both sign. Without it they
    have no callbacks."""

    callback_exceptions: tuple[str, ...] = ()
    """Origins that may be called back though they are private or speak no TLS: `http://127.0.0.1:9000`."""

    callback_attempts: int = 8
    """How often a callback is sent before it is given up."""

    callback_delay_s: float = 5.0
    """Seconds until it is sent again the first time; each time twice as long."""

    callback_longest_delay_s: float = 3600.0
    """The longest time until it is sent again, seconds."""

    callback_timeout_s: float = 10.0
    """Seconds an address may take to answer a callback."""

    max_callbacks: int = 32
    """Callbacks that are being sent at once by this process."""
