"""The environment of each part: every variable is a setting its service has, and leads to an address of the stack."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.dev.environment import Site, base_environment, reach, service_environment, vertical_environment
from services.kit import config, topology
from services.kit.acl import ROWS, USERS
from services.kit.app import KitConfig
from services.toolexec.config import Config as ToolExecConfig
from services.toolexec.core.signing import Signer

NAMES = [*topology.PROCESSES, *(f"{name}_metrics" for name in topology.PROCESSES), *topology.ENDPOINTS]
SITE = Site(
    {name: f"127.0.0.1:{9000 + index}" for index, name in enumerate(NAMES)},
    Path("/models"),
    ("llm", "sim_llm"),
    passwords={user: f"word-of-{user}" for user in USERS},
)


@pytest.mark.parametrize("name", topology.SERVICES)
def test_every_variable_is_a_setting_of_its_service(name: str) -> None:
    settings = importlib.import_module(f"services.{name}.config").Config
    environment = service_environment(name, SITE)
    config.load(settings, environment, f"MYRIAD_{name.upper()}_")
    config.load(KitConfig, environment, "MYRIAD_", strict=False)


@pytest.mark.parametrize("name", topology.SERVICES)
def test_service_listens_where_others_are_told(name: str) -> None:
    environment = service_environment(name, SITE)
    port = SITE.addresses[name].rpartition(":")[2]
    assert (environment["MYRIAD_HOST"], environment["MYRIAD_PORT"]) == ("127.0.0.1", port)
    assert environment["MYRIAD_METRICS_PORT"] == SITE.addresses[f"{name}_metrics"].rpartition(":")[2]


def test_orchestrator_is_told_where_each_service_is() -> None:
    environment = service_environment("orchestrator", SITE)
    for other in ("memory", "nlu", "retrieval", "toolexec", "triton"):
        assert environment[f"MYRIAD_ORCHESTRATOR_{other.upper()}_ADDRESS"] == SITE.addresses[other]
    assert environment["MYRIAD_ORCHESTRATOR_MODELS"] == "llm,sim_llm"


def test_a_worker_is_told_what_the_orchestrator_is_told_and_listens_elsewhere() -> None:
    worker, orchestrator = service_environment("worker", SITE), service_environment("orchestrator", SITE)
    assert {name for name in worker if worker[name] != orchestrator[name]} == {"MYRIAD_PORT", "MYRIAD_METRICS_PORT"}
    assert set(worker) == set(orchestrator)


@pytest.mark.parametrize(
    "environment", [lambda name: service_environment(name, SITE), lambda _: vertical_environment(SITE)]
)
def test_each_service_reaches_the_store_as_the_user_that_it_is(environment: Callable[[str], dict[str, str]]) -> None:
    for user in (row.user for row in ROWS):
        said = f"redis://{user}:word-of-{user}@{SITE.addresses['valkey']}"
        assert environment(user)[f"MYRIAD_{user.upper()}_REDIS_URL"] == said
    assert service_environment("worker", SITE)["MYRIAD_ORCHESTRATOR_REDIS_URL"].startswith("redis://orchestrator:")
    assert "word-of" not in str(service_environment("nlu", SITE)) + str(SITE)


def test_the_stack_signs_its_callbacks() -> None:
    settings = config.load(ToolExecConfig, service_environment("toolexec", SITE), "MYRIAD_TOOLEXEC_")
    assert Signer(settings.callback_keys, settings.callback_secrets).can_sign("dev")


def test_one_process_reaches_its_services_without_a_socket_and_engines_with_one() -> None:
    environment = vertical_environment(SITE)
    for variable, value in environment.items():
        if variable.endswith("_ADDRESS"):
            engine = variable.endswith("TRITON_ADDRESS")
            assert value == (SITE.addresses["triton"] if engine else "inproc:"), variable
    assert environment["MYRIAD_PORT"] == SITE.addresses["orchestrator"].rpartition(":")[2]


def test_one_process_is_told_all_that_five_are_told() -> None:
    together = set(vertical_environment(SITE))
    for name in topology.SERVICES:
        assert set(service_environment(name, SITE)) <= together


TWICE = replace(SITE, addresses={**SITE.addresses, "memory-2": "127.0.0.1:8001", "memory-2_metrics": "127.0.0.1:8002"})


def test_a_service_with_replicas_is_reached_at_all_their_addresses() -> None:
    environment = service_environment("nlu", TWICE)
    assert environment["MYRIAD_NLU_MEMORY_ADDRESS"] == f"ipv4:{SITE.addresses['memory']},127.0.0.1:8001"
    assert reach(TWICE.addresses, "memory") == (SITE.addresses["memory"], "127.0.0.1:8001")
    assert reach(TWICE.addresses, "toolexec") == (SITE.addresses["toolexec"],)


def test_a_replica_differs_from_the_first_by_its_ports_alone() -> None:
    first, second = service_environment("memory", TWICE), service_environment("memory", TWICE, "memory-2")
    assert {name for name in first if first[name] != second[name]} == {"MYRIAD_PORT", "MYRIAD_METRICS_PORT"}
    assert (second["MYRIAD_PORT"], second["MYRIAD_METRICS_PORT"]) == ("8001", "8002")


@pytest.mark.parametrize("environment", [lambda site: service_environment("nlu", site), vertical_environment])
def test_who_is_believed_and_what_is_encrypted_is_told_to_every_service(
    environment: Callable[[Site], dict[str, str]], tmp_path: Path
) -> None:
    assert environment(SITE)["MYRIAD_AUTH"] == "insecure-dev"
    assert not any(name.startswith("MYRIAD_TLS") for name in environment(SITE))
    guarded = environment(replace(SITE, keys=tmp_path, auth=True, tls=True))
    assert guarded["MYRIAD_AUTH"] == "mesh"
    config.load(KitConfig, guarded, "MYRIAD_", strict=False)
    files = [value for name, value in guarded.items() if name.endswith("_FILE")]
    assert len(files) == 4
    assert all(value.startswith(str(tmp_path)) for value in files)


def test_what_is_inherited_stays_and_calls_to_this_machine_avoid_a_proxy() -> None:
    inherited = {"http_proxy": "http://proxy:3128", "no_proxy": "example.com", "NO_PROXY": "10.0.0.1,example.com"}
    environment = base_environment(inherited, ("MARK", "x"))
    assert environment["http_proxy"] == "http://proxy:3128"
    assert environment["no_proxy"] == environment["NO_PROXY"] == "example.com,10.0.0.1,127.0.0.1,localhost"
    assert environment["MARK"] == "x"
