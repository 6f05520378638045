"""A sixth service is as few edits as CONTRIBUTING.md says, and each of them is missed when it is left out."""

import asyncio
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.kit.topology import SERVICES
from tests.support.ports import free_port
from tests.support.sixth import EDITS, ROOT, Copy

pytestmark = pytest.mark.timeout(180)

MOST_EDITS = 5
NAME = "myriad.greeter.v1.GreeterService"
RULES = (
    "tests/contract/test_protos.py",
    "tests/contract/test_manifests.py",
    "tests/integration/greeter/inproc.py",
    "tests/unit/dev/test_environment.py",
    "tests/unit/dev/test_plan.py",
    "tests/unit/vertical/test_app.py",
)
SLOW = "tests/contract/test_manifests.py::test_the_api_servers_schema_takes_every_object"
GUARDS = {
    "services/kit/topology.py": "tests/contract/test_protos.py::test_the_topology_names_every_service_of_the_protos",
    "pyproject.toml": "tests/contract/test_sixth_service.py::test_every_service_has_an_extra_and_import_rules",
    "services/vertical/app.py": "tests/unit/vertical/test_app.py::test_every_service_has_a_configuration",
    "k8s/base/kustomization.yaml": "tests/contract/test_manifests.py::"
    "test_there_is_a_deployment_and_an_account_for_each_process_and_a_service_for_all_that_are_called",
    "README.md": "tests/contract/test_protos.py::test_the_readme_lists_the_services_with_their_ports",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The repository with a sixth service."""
    made = Copy(tmp_path_factory.mktemp("sixth"))
    for name in EDITS:
        made.edit(name)
    made.generate()
    return made


def test_contributing_names_the_files_that_are_edited_and_they_are_few() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(r"^## A sixth service\n(.*?)(?=^## |\Z)", guide, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE) == list(EDITS)
    assert len(EDITS) <= MOST_EDITS


def test_every_service_has_an_extra_and_import_rules() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(SERVICES) <= set(project["project"]["optional-dependencies"])
    between, within, _ = project["tool"]["importlinter"]["contracts"]
    assert set(between["layers"][1].split(" | ")) == {"dev", *SERVICES}
    assert set(within["containers"]) == {f"services.{name}" for name in SERVICES}


def test_the_rules_of_the_repository_hold_with_it(copy: Copy) -> None:
    done = copy.tests(*RULES, *GUARDS.values(), "--deselect", SLOW)
    assert done.returncode == 0, done.stdout
    for shown in (
        "tests/unit/dev/test_plan.py::test_every_service_and_a_worker_are_parts",
        "tests/unit/dev/test_environment.py::test_every_variable_is_a_setting_of_its_service[greeter]",
        "tests/integration/greeter/inproc.py::test_one_process_answers_greeter_without_a_socket",
        "tests/contract/test_manifests.py::test_a_service_listens_where_the_topology_says[greeter]",
        *GUARDS.values(),
    ):
        assert f"{shown} PASSED" in done.stdout


def test_imports_go_one_way_with_it(copy: Copy) -> None:
    done = copy.run(".ci/check.py", "imports")
    assert done.returncode == 0, done.stdout


def test_its_variables_are_documented(copy: Copy) -> None:
    assert "`MYRIAD_GREETER_NOON`" in (copy.folder / "docs" / "configuration.md").read_text()


def test_envoy_has_no_route_to_it(copy: Copy) -> None:
    written = (copy.folder / "envoy" / "envoy.yaml").read_text()
    assert "OrchestratorService" in written
    assert "greeter" not in written.lower()


async def test_it_serves_and_says_so(copy: Copy) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString((copy.folder / "envoy/descriptors.pb").read_bytes()).file:
        pool.Add(file)
    greet = pool.FindServiceByName(NAME).FindMethodByName("Greet")
    request: Any = GetMessageClass(greet.input_type)
    reply: Any = GetMessageClass(greet.output_type)
    port = free_port()
    environ = copy.environ | {
        "MYRIAD_AUTH": "insecure-dev",
        "MYRIAD_PORT": str(port),
        "MYRIAD_METRICS_PORT": "-1",
        "MYRIAD_DRAIN_S": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.greeter"), cwd=copy.folder, env=environ | {"MYRIAD_GREETER_NOON": "24"}
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch
            async with asyncio.timeout(20):
                async for said in watch(health_pb2.HealthCheckRequest(service=NAME), wait_for_ready=True):
                    if said.status == health_pb2.HealthCheckResponse.SERVING:
                        break
            call = channel.unary_unary(f"/{NAME}/Greet", request.SerializeToString, reply.FromString)
            assert (await call(request(person="Ada"), timeout=5)).text == "Good morning, Ada."
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
def left_out(copy: Copy, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, "CompletedProcess[str]"]:
    """What the guard of each edit said where that alone is left out."""
    folders = [tmp_path_factory.mktemp("without") for _ in EDITS]

    def guarded(name: str, folder: Path) -> "CompletedProcess[str]":
        twin = copy.twin(folder)
        twin.undo(name)
        return twin.tests(GUARDS[name])

    with ThreadPoolExecutor(os.cpu_count()) as at_once:  # each is a run of pytest
        return dict(zip(EDITS, at_once.map(guarded, EDITS, folders), strict=True))


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_that_is_left_out_is_missed(left_out: Mapping[str, "CompletedProcess[str]"], name: str) -> None:
    assert left_out[name].returncode == 1
    assert "greeter" in left_out[name].stdout
