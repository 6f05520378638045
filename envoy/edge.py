"""All that differs between one installation of Envoy and another; everything else is the same everywhere.

The defaults are the cluster's. Another installation says what differs in a JSON object with the names of these fields.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from services.kit.topology import ENDPOINTS, MOST_HELD, SERVICES

_SECRETS = "/run/secrets"


@dataclass(frozen=True)
class Jwt:
    """Whose tokens are believed."""

    issuer: str
    """The `iss` of every token."""

    audience: str
    """What must be in `aud` of every token."""

    jwks: str
    """File with the issuer's public keys, as a JSON Web Key Set. Replaced by a move, it is read again."""

    max_lifetime_s: int = 86_400
    """A token that has longer than this to live is refused, in seconds."""


@dataclass(frozen=True)
class Tls:
    """A certificate to show. Both files are read again when one is moved into their folder."""

    certificate: str
    """File with the certificate chain, PEM."""

    key: str
    """File with its private key, PEM."""


@dataclass(frozen=True)
class UpstreamTls(Tls):
    """How Envoy and the services prove to each other who they are."""

    ca: str
    """File with the authorities that sign certificates of services, PEM."""


@dataclass(frozen=True)
class Edge:
    """One installation."""

    folder: str = "/etc/envoy"
    """Where Envoy finds its configuration, and the files beside it that name its secrets."""

    descriptors: str = "/etc/envoy/descriptors.pb"
    """What the transcoder reads: `python protos/generate.py descriptors` makes it."""

    listen: str = f"0.0.0.0:{ENDPOINTS['envoy'].port}"
    """The one port for clients: host:port."""

    admin: str = f"127.0.0.1:{ENDPOINTS['envoy_admin'].port}"
    """Envoy's own interface, which asks nobody who they are: never reachable from another machine."""

    clusters: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: MappingProxyType(
            {name: (f"{name}:{row.port}",) for name, row in SERVICES.items() if row.public}
        )
    )
    """host:port of the replicas of each public service. A name in DNS may stand for several."""

    jwt: Jwt | None = Jwt("https://identity.example", "myriad", f"{_SECRETS}/jwks/jwks.json")
    """Whose tokens are believed. None: whoever calls is believed to be who they say (`MYRIAD_AUTH=insecure-dev`)."""

    mesh_token: str | None = f"{_SECRETS}/myriad/token"
    """File with the token that proves Envoy to the services; replaced by a move, it is read again. None: none is."""

    tls: Tls | None = Tls(f"{_SECRETS}/envoy-tls/tls.crt", f"{_SECRETS}/envoy-tls/tls.key")
    """What clients are shown. None: the port speaks plain text."""

    upstream_tls: UpstreamTls | None = None
    """What services are shown and must show. None: they are called in plain text."""

    hosts: tuple[str, ...] = ()
    """Names, without a port, that callers know Envoy by besides the loopback's. Asked for only where `jwt` is None."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call: `https://console.example`. Empty: none."""

    tenant_rps: int | None = 1000
    """Requests a second that each tenant may send through one Envoy, and at most at once. None: no limit."""

    max_connections: int = MOST_HELD
    """Connections of clients at once. The process needs more than twice as many file descriptors (`ulimit -n`)."""

    trusted_hops: int = 0
    """Proxies in front whose `x-forwarded-for` is believed, and whose word on whether a trace is recorded."""

    access_log: str | None = "/dev/stdout"
    """File that gets a JSON object for each request. None: there is none."""

    collector: str | None = None
    """Where spans go, OTLP over gRPC: host:port. None: trace ids are made and passed on, but no trace that begins here
    is recorded, by the services neither."""

    trace_ratio: float = 1.0
    """Share of the traces that are recorded, 0 to 1. Behind trusted hops: of those begun here; theirs is kept."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Edge":
        """The installation that a JSON object describes; what it does not name is the cluster's.

        Raises:
            TypeError: there is no such field, or one lacks a part.
        """
        given = dict(fields)
        for name, kind in {"jwt": Jwt, "tls": Tls, "upstream_tls": UpstreamTls}.items():
            if given.get(name) is not None:
                given[name] = kind(**given[name])
        if "clusters" in given:
            given["clusters"] = {name: tuple(addresses) for name, addresses in given["clusters"].items()}
        for name in {"hosts", "cors_origins"} & given.keys():
            given[name] = tuple(given[name])
        return dataclasses.replace(cls(), **given)
