"""Clients in other languages, over gRPC and gRPC-Web through Envoy, and reflection, which Envoy does not show."""

import json
import os
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.dev.stack import Stack
from services.kit.topology import SERVICES
from tests.support import toolchains
from tests.support.client import put_agent, sim
from tests.support.requests import methods, service_of
from tests.support.toolchains import CLIENT_LIST, CLIENTS, Client

pytestmark = pytest.mark.timeout(400)

WORDS = 12
QUESTION = sim(tokens=WORDS, delay_ms=60)
ANSWER = "".join(f"word{n} " for n in range(WORDS))


def by_language(client: Client) -> str:
    return client.language


@pytest.fixture(scope="module")
async def player(stack: Stack) -> str:
    await put_agent(stack, "player")
    return "player"


@pytest.fixture(params=CLIENT_LIST, ids=by_language)
async def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    toolchains.require(chosen, os.environ)
    await toolchains.build(chosen)
    return chosen


async def test_a_client_streams_resumes_cancels_and_reads_a_reason(stack: Stack, player: str, client: Client) -> None:
    said = await toolchains.call(client, stack.address("envoy"), player, QUESTION)
    answered, resumed, cancelled = said["answered"], said["resumed"], said["cancelled"]

    assert answered["run_id"] == f"{said['session_id']}.1"
    assert (answered["answer"], answered["last"]) == (ANSWER, "completed")
    assert answered["deltas"] > 1
    assert answered["sequences"] == list(range(1, len(answered["sequences"]) + 1))

    assert resumed["run_id"] == f"{said['session_id']}.2"
    assert 0 < resumed["cursor"] < len(resumed["sequences"])
    assert (resumed["answer"], resumed["last"]) == (ANSWER, "completed")
    assert resumed["sequences"] == list(range(1, len(resumed["sequences"]) + 1))

    assert cancelled["run_id"] == f"{said['session_id']}.3"
    assert (cancelled["last"], cancelled["state"]) == ("cancelled", "RUN_STATE_CANCELLED")
    assert ANSWER.startswith(cancelled["answer"])
    assert cancelled["answer"] != ANSWER

    code = grpc.StatusCode.NOT_FOUND.value[0]
    assert said["error"] == {"code": code, "reason": "AGENT_NOT_FOUND", "domain": "myriad"}


@pytest.mark.parametrize("language", ["node", "web"])
def test_a_lock_file_pins_each_package_by_digest_and_names_no_host(language: str) -> None:
    lock = json.loads((CLIENTS / language / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert len(packages) > 5
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


@pytest.mark.parametrize("client", CLIENT_LIST, ids=by_language)
def test_a_missing_toolchain_skips_a_test_and_fails_it_in_ci(client: Client, tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path)}
    with pytest.raises(pytest.skip.Exception, match=f"the {client.language} client is not tested"):
        toolchains.require(client, bare)
    with pytest.raises(pytest.fail.Exception, match=f"{toolchains.NOT_EXPECTED}={client.toolchain}"):
        toolchains.require(client, {**bare, "CI": "true"})
    with pytest.raises(pytest.skip.Exception):
        toolchains.require(client, {**bare, "CI": "true", toolchains.NOT_EXPECTED: f"other,{client.toolchain}"})


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_tells_its_methods_by_reflection(stack: Stack, name: str) -> None:
    with grpc.insecure_channel(stack.address(name)) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        proto_service = SERVICES[name].proto_service
        assert proto_service in database.get_services()
        file = database.FindFileContainingSymbol(proto_service)
    (service,) = (each for each in file.service if f"{file.package}.{each.name}" == proto_service)
    told = {method.name for method in service.method}
    assert told == {method.name for method in methods() if service_of(method) == name}


def test_the_edge_tells_no_methods(stack: Stack) -> None:
    with grpc.insecure_channel(stack.address("envoy")) as channel, pytest.raises(grpc.RpcError) as refused:
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
