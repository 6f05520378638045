"""Envoy on this machine runs the committed configuration: only addresses and the descriptors' path differ."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.dev.engines import envoy
from services.kit import topology

COMMITTED = (Path(__file__).resolve().parents[3] / "envoy" / "envoy.yaml").read_text()
PUBLIC = [name for name, service in topology.SERVICES.items() if service.public]
ADDRESSES = {"envoy": "127.0.0.1:8123", "envoy_admin": "127.0.0.1:9923"} | {name: "127.0.0.1:7177" for name in PUBLIC}


def differences(before: Any, after: Any, path: str = "") -> dict[str, Any]:
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        return {k: v for key in before for k, v in differences(before[key], after[key], f"{path}.{key}").items()}
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return {k: v for index, pair in pairs for k, v in differences(*pair, f"{path}[{index}]").items()}
    return {} if before == after else {path: after}


def test_nothing_else_differs() -> None:
    local = yaml.safe_load(envoy.localise(COMMITTED, ADDRESSES, Path("/here/descriptors.pb")))
    found = differences(yaml.safe_load(COMMITTED), local)
    assert set(found.values()) <= {"127.0.0.1", 8123, 9923, 7177, "/here/descriptors.pb"}
    assert {8123, 9923, 7177, "/here/descriptors.pb"} <= set(found.values())


def test_it_listens_on_the_loopback_only() -> None:
    local = yaml.safe_load(envoy.localise(COMMITTED, ADDRESSES, Path("/d.pb")))
    listening = [local["admin"], *local["static_resources"]["listeners"]]
    assert {each["address"]["socket_address"]["address"] for each in listening} == {"127.0.0.1"}


def test_cluster_without_an_address_is_an_error() -> None:
    with pytest.raises(KeyError):
        envoy.localise(COMMITTED, {name: ADDRESSES[name] for name in ("envoy", "envoy_admin")}, Path("/d.pb"))
