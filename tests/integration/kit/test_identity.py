"""A method that needs a role, over both drivers: who has one is served, who lacks it is told that it is needed.

No RPC of ours needs one yet, so the service is the test's own; the chain around it is the kit's.
"""

import asyncio
from contextlib import asynccontextmanager
from contextvars import Context

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2

from myriad.common.v1 import common_pb2
from services.kit.app import App, Kit
from services.kit.call import Principal, work_as
from services.kit.clients import INPROC
from services.kit.errors import Code, RoleRequired, Unauthenticated
from services.kit.grpc_server import grpc_server
from services.kit.interceptors.identity import metadata_of
from services.kit.telemetry import open_telemetry

SERVICE = "myriad.tests.identity.Vault"
MESH_TOKEN = "mesh"
NEEDED = ["keeper", "auditor"]


@pytest.fixture(scope="module", autouse=True)
def contract():
    """The service: `Open` needs one of two roles, `Look` none."""
    empty = empty_pb2.Empty.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/identity.proto", package="myriad.tests.identity", syntax="proto3", dependency=[empty.file.name]
    )
    service = file.service.add(name="Vault")
    for name, roles in (("Open", NEEDED), ("Look", [])):
        method = service.method.add(name=name, input_type=f".{empty.full_name}", output_type=f".{empty.full_name}")
        method.options.Extensions[common_pb2.access].roles.extend(roles)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


async def answer(request, context):
    return empty_pb2.Empty()


def add_vault(server):
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_registered_method_handlers(SERVICE, {"Open": handler, "Look": handler})


@asynccontextmanager
async def reached(kind):
    """A client of the service over a `socket` or `inproc`, and the address of the socket."""
    kit = Kit(open_telemetry("test", "", 0.0), MESH_TOKEN)
    server, _ = grpc_server([kit.registry(App("orchestrator", add_vault))])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield kit.network.client("orchestrator", INPROC if kind == "inproc" else address), address
    finally:
        await kit.network.close()
        await server.stop(0)


@pytest.fixture(params=["socket", "inproc"])
async def vault(request):
    """Calls a method of the service with these roles; None: on nobody's behalf."""
    async with reached(request.param) as (client, _):

        async def ask(method, roles):
            if roles is not None:
                work_as(Principal("acme", "ada", frozenset(roles)), name="test", timeout=5)
            stub = client.channel.unary_unary(
                f"/{SERVICE}/{method}", empty_pb2.Empty.SerializeToString, empty_pb2.Empty.FromString
            )
            return await client.unary(stub, empty_pb2.Empty(), timeout=5)

        async def call(method, roles):
            # In a context of its own: whom another test works for, is nobody here.
            return await asyncio.create_task(ask(method, roles), context=Context())

        yield call


@pytest.mark.parametrize("roles", [["keeper"], ["auditor"], ["visitor", "keeper"]])
async def test_who_has_one_of_the_roles_is_served(vault, roles):
    assert await vault("Open", roles) == empty_pb2.Empty()


@pytest.mark.parametrize("roles", [[], ["visitor"], ["admin"], ["keepers"], ["Keeper"]])
async def test_who_has_none_of_the_roles_is_told_which_are_needed(vault, roles):
    with pytest.raises(RoleRequired, match="keeper, auditor") as refused:
        await vault("Open", roles)
    assert refused.value.code is Code.PERMISSION_DENIED
    assert await vault("Look", roles) == empty_pb2.Empty()  # the control: it is the role that was missing


async def test_who_does_not_say_who_it_is_has_no_role(vault):
    with pytest.raises(Unauthenticated):
        await vault("Open", None)


async def test_a_stranger_that_gives_itself_the_role_is_no_peer():
    async with reached("socket") as (_, address), grpc.aio.insecure_channel(address) as channel:
        open_ = channel.unary_unary(f"/{SERVICE}/Open")
        keeper = Principal("acme", "ada", frozenset(NEEDED))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await open_(b"", metadata=metadata_of(keeper, "guessed"))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await open_(b"", metadata=metadata_of(keeper, MESH_TOKEN)) == b""  # the control
