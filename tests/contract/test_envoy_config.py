"""Envoy's configuration: what the renderer writes, what Envoy accepts, and that only public methods reach a service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api import annotations_pb2  # type: ignore[import-untyped]
from google.protobuf.descriptor import MethodDescriptor

from myriad.common.v1 import common_pb2
from services.dev.engines.envoy import launch, render
from services.kit.contracts import contract
from services.kit.topology import ENDPOINTS, SERVICES, Service

ROOT = Path(__file__).resolve().parents[2]
HEAP = "envoy.resource_monitors.fixed_heap"
RENDER = [sys.executable, str(ROOT / "envoy" / "render.py")]


@pytest.fixture(scope="module")
def config() -> Any:
    """The committed configuration."""
    return yaml.safe_load((ROOT / "envoy" / "envoy.yaml").read_text())


@pytest.fixture(scope="module")
def manager(config: Any) -> Any:
    """The connection manager of the listener for clients."""
    (listener,) = [each for each in config["static_resources"]["listeners"] if "internal_listener" not in each]
    ((manager,),) = [chain["filters"] for chain in listener["filter_chains"]]
    return manager["typed_config"]


@pytest.fixture(scope="module")
def routes(manager: Any) -> dict[str, Any]:
    """The routes by path; the last, which leads nowhere, is left out."""
    (host,) = manager["route_config"]["virtual_hosts"]
    return {route["match"]["path"]: route for route in host["routes"][:-1]}


def methods() -> list[tuple[Service, MethodDescriptor]]:
    """Every method of every service."""
    return [(service, method) for service in SERVICES.values() for method in contract(service.proto_service).methods]


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


OPEN = dict.fromkeys(("jwt", "mesh_token", "tls", "upstream_tls", "tenant_rps", "access_log", "collector"))
FULL = {
    "jwt": {"issuer": "i", "audience": "a", "jwks": "@/jwks.json"},
    "tls": {"certificate": "@/c.pem", "key": "@/c.key"},
    "upstream_tls": {"certificate": "@/c.pem", "key": "@/c.key", "ca": "@/ca.pem"},
    "clusters": {"orchestrator": ["127.0.0.1:7100", "127.0.0.1:7110"]},
    "cors_origins": ["https://console.test"],
    "trusted_hops": 1,
    "collector": "127.0.0.1:4317",
    "trace_ratio": 0.01,
}


@pytest.mark.parametrize("fields", [OPEN, FULL], ids=["nothing", "everything"])
def test_envoy_accepts_an_installation_with(fields: dict[str, Any], tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "protos" / "generate.py"), "descriptors"], check=True)
    (tmp_path / "jwks.json").write_text("{}")
    local = render(json.loads(json.dumps(fields).replace("@", str(tmp_path))), tmp_path)
    command = [*launch(local).argv, "--mode", "validate"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr[-2000:]


def test_an_installation_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tenant_rsp"):
        render({"tenant_rsp": 5}, tmp_path)


def test_secrets_are_only_named_by_their_files_and_forgotten_by_the_next_installation(tmp_path: Path) -> None:
    render({"mesh_token": "/keys/mesh.token"}, tmp_path)
    (mesh,) = yaml.safe_load((tmp_path / "secret-mesh-token.yaml").read_text())["resources"]
    assert mesh["generic_secret"] == {"secret": {"filename": "/keys/mesh.token"}}
    assert "mesh.token" not in (tmp_path / "envoy.yaml").read_text()
    render(OPEN, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"edge.json", "envoy.yaml"}


def test_every_public_method_has_a_route_and_nothing_else_has(routes: dict[str, Any]) -> None:
    assert sorted(routes) == sorted(path(service, method) for service, method in public())


def test_a_route_takes_one_exact_path_in_grpc(manager: Any) -> None:
    (host,) = manager["route_config"]["virtual_hosts"]
    *routes, elsewhere = host["routes"]
    for route in routes:
        assert set(route["match"]) == {"path", "headers"}
        assert route["match"]["headers"] == [{"name": "content-type", "string_match": {"prefix": "application/grpc"}}]
    assert elsewhere["match"] == {"prefix": "/"}


def test_everything_else_leads_to_a_cluster_that_there_is_not(config: Any, manager: Any) -> None:
    (host,) = manager["route_config"]["virtual_hosts"]
    route = host["routes"][-1]["route"]
    assert route == {"cluster": "nowhere", "cluster_not_found_response_code": "NOT_FOUND"}
    assert "nowhere" not in {cluster["name"] for cluster in config["static_resources"]["clusters"]}


def test_requests_of_one_message_are_buffered_and_no_others(manager: Any, routes: dict[str, Any]) -> None:
    buffered = {
        path for path, route in routes.items() if "envoy.filters.http.buffer" in route["typed_per_filter_config"]
    }
    assert buffered == {path(service, method) for service, method in public() if not method.client_streaming}
    (buffer,) = [each for each in manager["http_filters"] if each["name"] == "envoy.filters.http.buffer"]
    assert buffer["disabled"] is True


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
    assert set(clusters) == {*(service.name for service, _ in public()), "keys", "collector"}
    assert clusters["collector"]["load_assignment"]["endpoints"] == [{"lb_endpoints": []}]
    for service, method in public():
        assert routes[path(service, method)]["route"]["cluster"] == service.name
        (endpoint,) = clusters[service.name]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        assert address == {"address": service.name, "port_value": service.port}


def test_it_listens_where_the_topology_says_and_the_admin_on_the_loopback_only(config: Any) -> None:
    listener, keys = config["static_resources"]["listeners"]
    assert "address" not in keys
    assert listener["address"]["socket_address"]["port_value"] == ENDPOINTS["envoy"].port
    assert config["admin"]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": ENDPOINTS["envoy_admin"].port,
    }


def test_requests_pass_the_filters_in_order(manager: Any) -> None:
    names = [each["name"].removeprefix("envoy.filters.http.") for each in manager["http_filters"]]
    identity = ["rbac", "jwt_authn", "rbac", "local_ratelimit"]
    assert names == ["grpc_web", *identity, "buffer", "grpc_json_transcoder", "credential_injector", "router"]


def test_tokens_are_verified_as_strictly_as_envoy_can(manager: Any) -> None:
    (jwt,) = [each["typed_config"] for each in manager["http_filters"] if "jwt" in each["name"]]
    ((name, provider),) = jwt["providers"].items()
    assert jwt["rules"] == [{"match": {"prefix": "/"}, "requires": {"provider_name": name}}]
    assert {each["name"] for each in provider["from_headers"]} == {"authorization"}
    assert (provider["require_expiration"], provider["forward"], provider["max_lifetime"]) == (True, False, "86400s")
    headers = {each["claim_name"]: each["header_name"] for each in provider["claim_to_headers"]}
    assert headers == {"tenant": "x-myriad-tenant", "sub": "x-myriad-user", "roles": "x-myriad-roles"}


def test_no_replica_that_is_known_to_be_dead_is_used(config: Any) -> None:
    cluster = config["static_resources"]["clusters"][0]
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}
    assert cluster["outlier_detection"]["consecutive_local_origin_failure"] == 3


def test_ten_thousand_streams_fit_and_no_more_connections_than_descriptors(config: Any) -> None:
    (breaker,) = config["static_resources"]["clusters"][0]["circuit_breakers"]["thresholds"]
    assert breaker["max_requests"] >= 10_000
    connections = config["overload_manager"]["resource_monitors"][1]["typed_config"]
    assert 10_000 <= connections["max_active_downstream_connections"] < 16_384


def test_memory_is_given_up_in_steps_each_before_the_process_is_killed(config: Any) -> None:
    """The values are Envoy's advice for an edge proxy, validated with its release 1.40."""
    manager = config["overload_manager"]
    heap = manager["resource_monitors"][0]
    assert (heap["name"], heap["typed_config"]["max_heap_size_bytes"]) == (HEAP, 1_073_741_824)
    assert manager["refresh_interval"] == "0.25s"
    growing = {"scaled": {"scaling_threshold": 0.85, "saturation_threshold": 0.95}}
    assert triggers(manager["actions"]) == {
        "envoy.overload_actions.shrink_heap": at(0.90),
        "envoy.overload_actions.reduce_timeouts": growing,
        "envoy.overload_actions.reset_high_memory_stream": growing,
        "envoy.overload_actions.disable_http_keepalive": at(0.92),
        "envoy.overload_actions.stop_accepting_requests": at(0.95),
    }
    assert triggers(manager["loadshed_points"]) == {
        "envoy.load_shed_points.tcp_listener_accept": at(0.95),
        "envoy.load_shed_points.http_connection_manager_decode_headers": at(0.95),
        "envoy.load_shed_points.http2_server_go_away_on_dispatch": at(0.97),
    }
    (timers,) = [each["typed_config"] for each in manager["actions"] if each["name"].endswith("reduce_timeouts")]
    assert timers["timer_scale_factors"] == [{"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "2s"}]
    # Without this, no stream is large enough to be reset.
    assert manager["buffer_factory_config"] == {"minimum_account_to_track_power_of_two": 20}


def at(threshold: float) -> dict[str, Any]:
    """A trigger that is off or on."""
    return {"threshold": {"value": threshold}}


def triggers(given: list[Any]) -> dict[str, Any]:
    """What sets off each action or point, by its name: one trigger, by the heap."""
    found = {}
    for each in given:
        (trigger,) = each["triggers"]
        assert trigger["name"] == HEAP
        found[each["name"]] = {key: value for key, value in trigger.items() if key != "name"}
    return found
