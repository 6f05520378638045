"""What a composition root is given, and what it gives back."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.kit import topology
from services.kit.breaker import Breakers, Circuit, Rules
from services.kit.chain import Interceptor, Registry
from services.kit.clients import Network
from services.kit.config import standard
from services.kit.errors import Unavailable
from services.kit.interceptors.admission import Admission, Limits
from services.kit.interceptors.deadline import deadline
from services.kit.interceptors.errors import errors
from services.kit.interceptors.identity import identity
from services.kit.interceptors.telemetry import telemetry
from services.kit.interceptors.validation import validation
from services.kit.telemetry import Telemetry, open_telemetry
from services.kit.tls import Certificates


@dataclass(frozen=True)
class KitConfig:
    """What every process is told, whichever services it runs. Variables: `MYRIAD_<FIELD>`."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: int = 0
    """Port of gRPC. 0: the service's own of the topology."""

    metrics_port: int = 0
    """Port of Prometheus metrics and of probes (`/livez`, `/readyz`), on `host`. 0: the service's own of the topology.
    -1: none."""

    auth: str = "mesh"
    """`mesh`: identity headers count only beside the mesh token; where none is configured, from a peer with a
    certificate. `insecure-dev`: believed as sent."""

    mesh_token_file: Path | None = None
    """File with the token that peers of the mesh prove themselves with. Needed when `auth` is `mesh` without TLS."""

    tls_certificate_file: Path | None = None
    """Certificate (PEM) to serve and call with; it names the service by its bare name. Empty: no TLS. With it, peers
    must show one of the same authority. These files are read again when they change."""

    tls_key_file: Path | None = None
    """Key (PEM) of the certificate."""

    tls_ca_file: Path | None = None
    """Certificate (PEM) of the authority that signed those of all peers; two during its rotation."""

    max_calls: int = 256
    """Calls with one reply that may be under way at once in this process; more are refused at once."""

    max_streams: int = topology.MOST_HELD
    """Streams that may be under way at once in this process; more are refused at once."""

    breaker_failures: int = 5
    """After so many failures in a row a model, Milvus or a tool is left alone."""

    breaker_rest_s: float = 1.0
    """For so many seconds; then one call tries it."""

    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`. At `debug` it tells what exceptions say, which may quote users."""

    otlp_endpoint: str = standard("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    """Where spans go, OTLP over gRPC (`http://localhost:4317`). Empty: nowhere."""

    trace_ratio: float = standard("OTEL_TRACES_SAMPLER_ARG", 1.0)
    """Share of the traces begun here that are recorded, 0 to 1."""

    drain_s: float = 10.0
    """After SIGTERM, seconds that calls under way may still take."""

    notice_s: float = 0.0
    """The first seconds of `drain_s`, in which new calls are taken though health says no: until whoever balances by
    health has looked. Else calls on their way are lost. 0 where callers know it before, as by Kubernetes' preStop."""


Check = Callable[[], Awaitable[None]]
Closer = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class App:
    """One service, built and ready to be served.

    Args:
        name: Its name in the topology.
        add_to: Registers its servicers with the server it is given.
        checks: What must answer before the service is ready; each raises when it does not.
        closers: What to close, in the order it was opened; run in reverse.
        drainers: What takes no new work once the process is told to stop. Called once, at once; they wait for nothing.
        leavers: What ends by itself, and says how, when a stop leaves calls their last second. Called once.
        interceptors: Its own, within the kit's: they see a request that keeps its contract.
    """

    name: str
    add_to: Callable[[Any], None]
    checks: Mapping[str, Check] = field(default_factory=dict)
    closers: Sequence[Closer] = ()
    drainers: Sequence[Callable[[], None]] = ()
    leavers: Sequence[Closer] = ()
    interceptors: Sequence[Interceptor] = ()


class Kit:
    """What every composition root of a process shares."""

    def __init__(
        self,
        telemetry: Telemetry,
        mesh_token: str | None,
        certificates: Certificates | None = None,
        *,
        limits: Limits | None = None,
        rules: Rules | None = None,
    ) -> None:
        """Opens nothing.

        Args:
            telemetry: What the process reports with.
            mesh_token: Proves peers to be of the mesh. None: identity is believed as sent (`insecure-dev`).
            certificates: What peers connect with. They prove it alone where the token is empty. None: no TLS.
            limits: Most calls under way.
            rules: When circuits open.

        Raises:
            ValueError: the token is empty and nothing else proves a peer.
        """
        if mesh_token == "" and certificates is None:
            raise ValueError("a mesh needs a token or certificates")
        self.telemetry = telemetry
        self.certificates = certificates
        self.network = Network(mesh_token, certificates)
        self._identity = identity(mesh_token)
        self._admission = Admission(limits or Limits(), telemetry)
        self._rules = rules
        self._breakers: dict[str, Breakers] = {}

    def registry(self, app: App) -> Registry:
        """The app's methods, each with the chain around it, and within reach of `inproc:`."""
        interceptors = [*self._interceptors(topology.PROCESSES[app.name].timeout_s), *app.interceptors]
        registry = Registry(interceptors, self._admission)
        app.add_to(registry)
        self.network.inproc[app.name] = registry
        return registry

    def breakers(self, circuit: Circuit) -> Breakers:
        """The process's breakers of a kind: its services share what they know of a backend."""
        if circuit.kind not in self._breakers:
            self._breakers[circuit.kind] = Breakers(circuit, self._rules, self.telemetry.load)
        return self._breakers[circuit.kind]

    def _interceptors(self, timeout_s: float) -> list[Interceptor]:
        return [
            errors,  # outermost: nothing escapes untranslated, not even from another interceptor
            telemetry(
                self.telemetry
            ),  # inside: sees the real class; outside of what may refuse here, so it counts that
            self._admission,  # before any work: holds the place; it is the door, too, and counts there whom it refuses
            deadline(timeout_s, topology.STREAM_TIMEOUT_S),  # before any waiting
            self._identity,  # before the request is even decoded
            validation(),  # innermost: the handler sees a request that keeps its contract
        ]


def open_kit(config: KitConfig, service: str) -> Kit:
    """The kit of a process.

    Raises:
        ValueError: `auth` is neither `mesh` nor `insecure-dev`, or `mesh` has no proof; there is no such log level; the
            certificates cannot be used; a limit is below 1.
    """
    if config.auth not in {"mesh", "insecure-dev"}:
        raise ValueError(f"MYRIAD_AUTH must be mesh or insecure-dev, is {config.auth!r}")
    if config.log_level not in {"debug", "info", "warning", "error"}:
        raise ValueError(f"MYRIAD_LOG_LEVEL must be debug, info, warning or error, is {config.log_level!r}")
    for name in ("max_calls", "max_streams", "breaker_failures"):
        if getattr(config, name) < 1:
            raise ValueError(f"MYRIAD_{name.upper()} must be at least 1, is {getattr(config, name)}")
    certificates = _certificates(config)
    token = None
    if config.auth == "mesh":
        token = config.mesh_token_file.read_text().strip() if config.mesh_token_file else ""
        if not token and certificates is None:
            raise ValueError("MYRIAD_AUTH=mesh needs MYRIAD_MESH_TOKEN_FILE, a file that holds the mesh's token")
    return Kit(
        open_telemetry(service, config.otlp_endpoint, config.trace_ratio),
        token,
        certificates,
        limits=Limits(config.max_calls, config.max_streams),
        rules=Rules(config.breaker_failures, config.breaker_rest_s),
    )


def _certificates(config: KitConfig) -> Certificates | None:
    files = (config.tls_certificate_file, config.tls_key_file, config.tls_ca_file)
    certificate, key, authority = files
    if certificate and key and authority:
        return Certificates(certificate, key, authority)
    if any(files):
        raise ValueError("MYRIAD_TLS_CERTIFICATE_FILE, MYRIAD_TLS_KEY_FILE and MYRIAD_TLS_CA_FILE are set together")
    return None


async def ready(checks: Mapping[str, Check]) -> None:
    """Returns when every check passes.

    Raises:
        Unavailable: names those that do not.
    """
    failed = []
    for name, check in checks.items():
        try:
            await check()
        except Exception:  # noqa: BLE001 - whatever a check raises, it is not ready
            failed.append(name)
    if failed:
        raise Unavailable(f"waiting for {', '.join(failed)}")
