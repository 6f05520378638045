"""Secrets: the configuration holds only paths, and Envoy reads a file again when it is replaced by a move.

Envoy watches the files only of secrets that it discovers, so each is described in a file of its own beside the
configuration.
"""

from edge import Edge, Tls
from shapes import TYPES, Yaml

_SECRET = f"{TYPES}extensions.transport_sockets.tls.v3.Secret"


def secret(edge: Edge, name: str) -> Yaml:
    """A reference to a secret that `secrets` describes."""
    source = {"path_config_source": {"path": f"{edge.folder}/{_file(name)}"}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def secrets(edge: Edge) -> dict[str, Yaml]:
    """What describes each secret of the installation, by the name of its file."""
    described: dict[str, Yaml] = {}
    if edge.mesh_token:
        described["mesh_token"] = {"generic_secret": {"secret": {"filename": edge.mesh_token}}}
    if edge.tls:
        described["edge_certificate"] = _certificate(edge.tls)
    if edge.upstream_tls:
        described["mesh_certificate"] = _certificate(edge.upstream_tls)
        authority = {"trusted_ca": {"filename": edge.upstream_tls.ca}, **_watched(edge.upstream_tls.ca)}
        described["mesh_authority"] = {"validation_context": authority}
    return {
        _file(name): {"resources": [{"@type": _SECRET, "name": name, **description}]}
        for name, description in described.items()
    }


def _certificate(tls: Tls) -> Yaml:
    chain, key = {"filename": tls.certificate}, {"filename": tls.key}
    return {"tls_certificate": {"certificate_chain": chain, "private_key": key, **_watched(tls.certificate)}}


def _watched(file: str) -> Yaml:
    return {"watched_directory": {"path": file.rpartition("/")[0]}}


def _file(name: str) -> str:
    return f"secret-{name.replace('_', '-')}.yaml"
