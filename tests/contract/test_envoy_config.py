"""Envoy's configuration: what the renderer writes, what Envoy accepts, and that only public methods have a route."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api import annotations_pb2  # type: ignore[import-untyped]
from google.protobuf.descriptor import MethodDescriptor

from myriad.common.v1 import common_pb2
from services.dev.engines.envoy import launch
from services.kit.topology import ENDPOINTS, SERVICES, Service

ROOT = Path(__file__).resolve().parents[2]
RENDER = [sys.executable, str(ROOT / "envoy" / "render.py")]


@pytest.fixture(scope="module")
def config() -> Any:
    """The committed configuration."""
    return yaml.safe_load((ROOT / "envoy" / "envoy.yaml").read_text())


@pytest.fixture(scope="module")
def manager(config: Any) -> Any:
    """The connection manager of the only listener."""
    (listener,) = config["static_resources"]["listeners"]
    ((manager,),) = [chain["filters"] for chain in listener["filter_chains"]]
    return manager["typed_config"]


@pytest.fixture(scope="module")
def routes(manager: Any) -> dict[str, Any]:
    """The routes by path."""
    (host,) = manager["route_config"]["virtual_hosts"]
    return {route["match"]["path"]: route for route in host["routes"]}


def methods() -> list[tuple[Service, MethodDescriptor]]:
    """Every method of every service."""
    found = []
    for service in SERVICES.values():
        package, _, name = service.proto_service.rpartition(".")
        module = importlib.import_module(f"{package}.{service.name}_pb2")
        found += [(service, method) for method in module.DESCRIPTOR.services_by_name[name].methods]
    return found


def has(method: MethodDescriptor, option: Any) -> bool:
    """Whether the method carries the option."""
    options: Any = method.GetOptions()
    return bool(options.HasExtension(option))


def public() -> list[tuple[Service, MethodDescriptor]]:
    """Every method that says who may call it from outside."""
    return [(service, method) for service, method in methods() if has(method, common_pb2.access)]


def path(service: Service, method: MethodDescriptor) -> str:
    """The path of a method in gRPC."""
    return f"/{service.proto_service}/{method.name}"


def test_the_committed_file_is_what_the_renderer_writes() -> None:
    check = subprocess.run([*RENDER, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, f"run `python envoy/render.py`:\n{check.stdout}{check.stderr}"


def test_envoy_accepts_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "protos" / "generate.py"), "descriptors"], check=True)
    text = (ROOT / "envoy" / "envoy.yaml").read_text()
    local = tmp_path / "envoy.yaml"
    local.write_text(text.replace("/etc/envoy/descriptors.pb", str(ROOT / "envoy" / "descriptors.pb")))
    command = [*launch(local).argv, "--mode", "validate"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr[-2000:]


def test_every_public_method_has_a_route_and_nothing_else_has(routes: dict[str, Any]) -> None:
    assert sorted(routes) == sorted(path(service, method) for service, method in public())


def test_a_route_takes_one_exact_path_in_grpc(manager: Any) -> None:
    (host,) = manager["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        assert set(route["match"]) == {"path", "headers"}
        assert route["match"]["headers"] == [{"name": "content-type", "string_match": {"prefix": "application/grpc"}}]


def test_every_public_method_has_an_http_annotation() -> None:
    assert [method.full_name for _, method in public() if not has(method, annotations_pb2.http)] == []


def test_only_services_with_a_public_method_are_public_and_transcoded(manager: Any) -> None:
    expected = {service.name for service, _ in public()}
    assert {service.name for service in SERVICES.values() if service.public} == expected
    (transcoder,) = [each["typed_config"] for each in manager["http_filters"] if "transcoder" in each["name"]]
    assert transcoder["services"] == [SERVICES[name].proto_service for name in expected]
    assert transcoder["auto_mapping"] is False


def test_no_public_method_takes_a_stream_of_requests() -> None:
    assert [method.full_name for _, method in public() if method.client_streaming] == []


def test_every_route_bounds_the_time_of_a_call(routes: dict[str, Any]) -> None:
    for service, method in public():
        route = routes[path(service, method)]
        seconds = 900 if method.server_streaming else service.timeout_s
        (added,) = route["request_headers_to_add"]
        assert added["header"] == {"key": "grpc-timeout", "value": f"{seconds:.0f}S"}
        assert added["append_action"] == "ADD_IF_ABSENT"
        assert route["route"]["max_stream_duration"]["grpc_timeout_header_max"] == f"{seconds:.0f}s"
        assert route["route"]["timeout"] == ("0s" if method.server_streaming else f"{seconds:.0f}s")


def test_only_what_did_not_begin_is_tried_again(routes: dict[str, Any]) -> None:
    assert {route["route"]["retry_policy"]["retry_on"] for route in routes.values()} == {
        "connect-failure,refused-stream"
    }


def test_every_route_leads_to_its_service_where_the_topology_says(config: Any, routes: dict[str, Any]) -> None:
    clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
    assert set(clusters) == {service.name for service, _ in public()}
    for service, method in public():
        assert routes[path(service, method)]["route"]["cluster"] == service.name
        (endpoint,) = clusters[service.name]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert address == {"address": service.name, "port_value": service.port}


def test_it_listens_where_the_topology_says_and_the_admin_on_the_loopback_only(config: Any) -> None:
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == ENDPOINTS["envoy"].port
    assert config["admin"]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": ENDPOINTS["envoy_admin"].port,
    }


def test_requests_pass_the_filters_in_order(manager: Any) -> None:
    names = [each["name"].removeprefix("envoy.filters.http.") for each in manager["http_filters"]]
    assert names == ["buffer", "grpc_web", "grpc_json_transcoder", "router"]
