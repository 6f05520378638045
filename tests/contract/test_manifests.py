"""The manifests: they render, the API server's schema takes them, and they agree with the topology and the services."""

import importlib
import lzma
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.kit.acl import ROWS
from services.kit.app import KitConfig
from services.kit.config import load
from services.kit.topology import ENDPOINTS, PROCESSES, SERVICES, WORKER, Service

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
MANIFESTS = {"deployment.yaml", "kustomization.yaml", "service.yaml"}
ENVOY_PORT = ENDPOINTS["envoy"].port

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_process = pytest.mark.parametrize("service", PROCESSES.values(), ids=PROCESSES)


@pytest.fixture(scope="module")
def rendered() -> str:
    """k8s/base as text."""
    subprocess.run([sys.executable, str(ROOT / "protos" / "generate.py"), "descriptors"], check=True)
    command = [str(PROGRAMS / "kubectl"), "kustomize", str(ROOT / "k8s" / "base")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def objects(rendered: str) -> dict[tuple[str, str], Any]:
    """The objects by kind and name; names of ConfigMaps without their digest."""
    found = {}
    for each in yaml.safe_load_all(rendered):
        name = each["metadata"]["name"]
        found[each["kind"], name.rpartition("-")[0] if each["kind"] == "ConfigMap" else name] = each
    return found


@pytest.fixture(scope="module")
def pods(objects: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """The specification of the pods of each Deployment."""
    return {name: each["spec"]["template"]["spec"] for (kind, name), each in objects.items() if kind == "Deployment"}


def container(pod: Any) -> Any:
    """The pod's only container."""
    (only,) = pod["containers"]
    return only


def mebibytes(amount: str) -> int:
    """An amount of memory as the manifests write it."""
    assert amount.endswith("Mi")
    return int(amount.removesuffix("Mi"))


def variables(objects: dict[tuple[str, str], Any], pods: dict[str, Any], service: Service) -> dict[str, str]:
    """What the service finds in its environment; what a Secret holds is its place there."""
    spec = container(pods[service.name])
    sources = [each["configMapRef"]["name"].rpartition("-")[0] for each in spec["envFrom"]]
    found = {name: value for source in sources for name, value in objects["ConfigMap", source]["data"].items()}
    for each in spec.get("env", []):
        kept = each.get("valueFrom", {}).get("secretKeyRef")
        found[each["name"]] = each["value"] if kept is None else f"{kept['name']}/{kept['key']}"
    return found


def test_the_api_servers_schema_takes_every_object(rendered: str, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(rendered)
    command = [str(PROGRAMS / "kubernetes-validate"), "--strict", "--quiet", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_there_is_a_deployment_and_an_account_for_each_process_and_a_service_for_all_that_are_called(
    objects: dict[tuple[str, str], Any],
) -> None:
    for kind, names in (("Deployment", PROCESSES), ("ServiceAccount", PROCESSES), ("Service", SERVICES)):
        assert {name for found, name in objects if found == kind} == {*names, "envoy"}


def test_a_worker_is_the_orchestrators_image_told_to_work_with_the_same_settings(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any]
) -> None:
    worker, orchestrator = container(pods["worker"]), container(pods["orchestrator"])
    assert (worker["image"], worker["args"]) == (orchestrator["image"], ["worker"])
    assert (worker["envFrom"], worker["env"]) == (orchestrator["envFrom"], orchestrator["env"])
    ports = {port["name"]: port["containerPort"] for port in worker["ports"]}
    assert ports == {"grpc": WORKER.port, "metrics": WORKER.metrics_port}
    annotations = objects["Deployment", "worker"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(WORKER.metrics_port)
    environ = variables(objects, pods, WORKER)
    drain, tool = (float(environ[f"MYRIAD_ORCHESTRATOR_{name}_S"]) for name in ("WORKER_DRAIN", "DRAIN_TOOL"))
    assert pods["worker"]["terminationGracePeriodSeconds"] >= drain + tool + 15


def test_everything_is_in_a_namespace_that_enforces_the_restricted_profile(objects: dict[tuple[str, str], Any]) -> None:
    labels = objects["Namespace", "myriad"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each for (kind, _), each in objects.items() if kind != "Namespace"]
    assert {each["metadata"].get("namespace") for each in others} == {"myriad"}


def test_every_pod_keeps_the_restricted_profile(pods: dict[str, Any]) -> None:
    for name, pod in pods.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert {kind for volume in pod["volumes"] for kind in volume} <= {
            "name", "secret", "configMap", "emptyDir", "persistentVolumeClaim",
        }  # fmt: skip
        security = container(pod)["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert all("hostPort" not in port for port in container(pod)["ports"]), name


def test_every_container_is_probed_limited_and_left_time_to_drain(pods: dict[str, Any]) -> None:
    for name, pod in pods.items():
        spec = container(pod)
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(spec), name
        resources = spec["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"], name
        assert "cpu" in resources["requests"], name
        assert "ephemeral-storage" in resources["limits"], name
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume), name
        assert spec["lifecycle"]["preStop"]["sleep"]["seconds"] < pod["terminationGracePeriodSeconds"], name


def test_a_pod_may_keep_what_its_volumes_hold(pods: dict[str, Any]) -> None:
    for name, pod in pods.items():
        limits = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume]
        assert sum(map(mebibytes, limits)) <= mebibytes(container(pod)["resources"]["limits"]["ephemeral-storage"]), (
            name
        )


def test_nlu_has_room_to_unpack_its_language_model(pods: dict[str, Any]) -> None:
    (packed,) = (resources.files("py3langid") / "data").iterdir()
    with lzma.open(packed) as model:
        unpacked = model.seek(0, os.SEEK_END)
    (room,) = (volume["emptyDir"]["sizeLimit"] for volume in pods["nlu"]["volumes"] if volume["name"] == "tmp")
    assert unpacked < mebibytes(room) * 1024 * 1024


def test_every_image_names_its_version(pods: dict[str, Any]) -> None:
    for name, pod in pods.items():
        _, colon, tag = container(pod)["image"].rpartition(":")
        assert colon, name
        assert any(character.isdigit() for character in tag), name


@each_service
def test_a_service_listens_where_the_topology_says(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any], service: Service
) -> None:
    spec = container(pods[service.name])
    ports = {port["name"]: port["containerPort"] for port in spec["ports"]}
    assert ports == {"grpc": service.port, "metrics": service.metrics_port}
    (port,) = objects["Service", service.name]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (service.port, "grpc")
    annotations = objects["Deployment", service.name]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(service.metrics_port)


@each_process
def test_liveness_asks_for_the_process_alone_and_readiness_for_all(pods: dict[str, Any], service: Service) -> None:
    spec = container(pods[service.name])
    alive = {"path": "/livez", "port": "metrics"}  # which a thread of its own answers, however full the loop is
    assert (spec["livenessProbe"]["httpGet"], spec["startupProbe"]["httpGet"]) == (alive, alive)
    assert spec["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}


@each_service
def test_callers_get_the_address_of_every_replica(objects: dict[tuple[str, str], Any], service: Service) -> None:
    spec = objects["Service", service.name]["spec"]
    labels = objects["Deployment", service.name]["spec"]["template"]["metadata"]["labels"]
    assert spec["clusterIP"] == "None"
    assert spec["selector"].items() <= labels.items()


@each_service
def test_the_environment_is_a_configuration_of_the_service(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any], service: Service
) -> None:
    environ = variables(objects, pods, service)
    config = importlib.import_module(f"services.{service.name}.config").Config
    prefix = f"MYRIAD_{service.name.upper()}_"
    load(config, environ, prefix)
    own = {name for name in environ if name.startswith(prefix)}
    load(KitConfig, {name: value for name, value in environ.items() if name not in own}, "MYRIAD_")


@each_service
def test_the_environment_names_every_address_where_it_listens(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any], service: Service
) -> None:
    environ = variables(objects, pods, service)
    config = importlib.import_module(f"services.{service.name}.config").Config
    prefix = f"MYRIAD_{service.name.upper()}_"
    needed = {prefix + name.upper() for name in config.__annotations__ if name.endswith(("_address", "_uri", "_url"))}
    ports = {row.name: row.port for row in SERVICES.values()} | {row.name: row.port for row in ENDPOINTS.values()}
    assert needed <= set(environ)
    for name in needed:
        host, _, port = environ[name].rpartition("//")[2].rpartition("@")[2].partition(":")
        assert ports[host] == int(port), name


@each_process
def test_identity_is_believed_only_beside_the_mesh_token_which_is_a_mounted_secret(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any], service: Service
) -> None:
    environ = variables(objects, pods, service)
    assert environ["MYRIAD_AUTH"] == "mesh"
    (mount,) = [each for each in container(pods[service.name])["volumeMounts"] if each["name"] == "mesh-token"]
    (volume,) = [each for each in pods[service.name]["volumes"] if each["name"] == "mesh-token"]
    assert Path(environ["MYRIAD_MESH_TOKEN_FILE"]).parent == Path(mount["mountPath"])
    assert "secret" in volume


@each_service
def test_a_pod_is_given_the_time_its_calls_may_take_to_drain(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any], service: Service
) -> None:
    environ = variables(objects, pods, service)
    drain = float(environ["MYRIAD_DRAIN_S"])
    tool = float(environ.get("MYRIAD_ORCHESTRATOR_DRAIN_TOOL_S", 0))
    before = container(pods[service.name])["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drain >= service.timeout_s
    assert pods[service.name]["terminationGracePeriodSeconds"] >= before + drain + tool + 5


@each_process
def test_a_process_reaches_the_store_as_its_user_with_a_password_of_a_secret(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any], service: Service
) -> None:
    user = "orchestrator" if service == WORKER else service.name
    environ = variables(objects, pods, service)
    urls = {name: value for name, value in environ.items() if name.endswith("_REDIS_URL")}
    if user not in {row.user for row in ROWS}:
        assert (urls, "REDIS_PASSWORD" in environ) == ({}, False)
        return
    assert urls == {f"MYRIAD_{user.upper()}_REDIS_URL": f"redis://{user}:$(REDIS_PASSWORD)@valkey:6379"}
    names = list(environ)  # only what stands before it is put in
    assert names.index("REDIS_PASSWORD") < names.index(*urls)
    assert environ["REDIS_PASSWORD"] == f"valkey-users/{user}"


def test_no_config_map_holds_a_password(objects: dict[tuple[str, str], Any]) -> None:
    for (kind, name), each in objects.items():
        if kind == "ConfigMap" and name != "envoy":
            assert not [value for value in each["data"].values() if "@" in value], name


def test_envoy_runs_the_committed_configuration_within_its_memory(
    objects: dict[tuple[str, str], Any], pods: dict[str, Any]
) -> None:
    files = objects["ConfigMap", "envoy"]
    assert files["data"]["envoy.yaml"] == (ROOT / "envoy" / "envoy.yaml").read_text()
    config = yaml.safe_load(files["data"]["envoy.yaml"])
    mounts = {each["name"]: each["mountPath"] for each in container(pods["envoy"])["volumeMounts"]}
    assert f"{mounts['config']}/descriptors.pb" in files["data"]["envoy.yaml"]
    for path in set(re.findall(r"(?:/etc|/run)/\S+", "\n".join(files["data"].values()))):
        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts.values()), path
    assert set(files["data"]) == {path.name for path in (ROOT / "envoy").glob("*.yaml")} - MANIFESTS
    assert set(files["binaryData"]) == {"descriptors.pb"}
    heap = config["overload_manager"]["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"]
    limit = container(pods["envoy"])["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) * 2**20 >= 1.2 * heap
    assert container(pods["envoy"])["ports"] == [{"name": "edge", "containerPort": ENVOY_PORT}]
    assert [port["port"] for port in objects["Service", "envoy"]["spec"]["ports"]] == [ENVOY_PORT]
