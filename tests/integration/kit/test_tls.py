"""TLS between services: who has no certificate of the authority is not let in, and certificates change under load."""

import asyncio
import contextlib
import contextvars
import os
import shutil
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2
from services.dev.certificates import make_certificates
from services.kit.app import Kit, KitConfig, open_kit
from services.kit.call import Call, Principal, current_call, enter
from services.kit.clients import Network
from services.kit.errors import ServiceUnavailable, Unauthenticated
from services.kit.serve import _knock
from services.kit.telemetry import open_telemetry
from services.kit.tls import Certificates
from tests.support.process import appeared, running
from tests.support.transport import Scripted, serving
from tests.support.waiting import until

RUN = run_pb2.GetRunRequest(run_id="s.1")
NAMES = ("orchestrator", "memory")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two authorities, and what each signed."""
    made = [tmp_path_factory.mktemp(name) for name in ("ours", "others")]
    for folder in made:
        make_certificates(folder, {name: (name,) for name in NAMES})
    return made


def certificates(folder: Path, name: str = "orchestrator", authority: Path | None = None) -> Certificates:
    return Certificates(folder / f"{name}.pem", folder / f"{name}.key", (authority or folder) / "ca.pem")


async def answer(request):
    return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id))


@asynccontextmanager
async def served(own: Certificates, mesh_token: str | None = None):
    servicer = Scripted(get_run=answer)
    async with serving(Kit(open_telemetry("test", "", 0.0), mesh_token, own), servicer) as address:
        yield address, servicer


async def ask(network: Network, address: str, service: str = "orchestrator"):
    client = network.client(service, address)
    stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
    try:
        return await client.unary(stub.GetRun, RUN, timeout=2)
    finally:
        await network.close()


async def test_a_peer_with_a_certificate_of_the_authority_is_answered(folders):
    ours, _ = folders
    async with served(certificates(ours)) as (address, _):
        port = address.rpartition(":")[2]
        for target in (address, f"localhost:{port}", f"ipv4:{address}"):
            reply = await ask(Network(None, certificates(ours, "memory")), target)
            assert reply.run.run_id == "s.1"


async def test_a_peer_without_one_is_refused(folders):
    ours, _ = folders
    authority = (ours / "ca.pem").read_bytes()
    async with served(certificates(ours)) as (address, servicer):
        with pytest.raises(ServiceUnavailable):
            await ask(Network(None), address)
        nameless = grpc.ssl_channel_credentials(authority)
        async with grpc.aio.secure_channel(address, nameless) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await orchestrator_pb2_grpc.OrchestratorServiceStub(channel).GetRun(RUN, timeout=2)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert servicer.principals == []


async def test_a_certificate_of_another_authority_is_refused_on_either_side(folders):
    ours, others = folders
    async with served(certificates(ours)) as (address, servicer):
        with pytest.raises(ServiceUnavailable):
            await ask(Network(None, certificates(others, authority=ours)), address)
        with pytest.raises(ServiceUnavailable):
            await ask(Network(None, certificates(ours, authority=others)), address)
        assert servicer.principals == []


async def test_a_service_that_is_another_than_the_one_called_is_not_spoken_to(folders):
    ours, _ = folders
    async with served(certificates(ours, "memory")) as (address, servicer):
        with pytest.raises(ServiceUnavailable):
            await ask(Network(None, certificates(ours)), address)
        assert servicer.principals == []


async def test_in_a_mesh_a_certificate_is_proof_enough_and_headers_count(folders):
    ours, _ = folders
    files = {
        "tls_certificate_file": ours / "orchestrator.pem",
        "tls_key_file": ours / "orchestrator.key",
        "tls_ca_file": ours / "ca.pem",
    }
    kit = open_kit(KitConfig(auth="mesh", **files), "orchestrator")
    servicer = Scripted(get_run=answer)
    async with serving(kit, servicer) as address:
        nobody = ask(Network(None, certificates(ours)), address)
        with pytest.raises(Unauthenticated, match="no tenant and user"):
            await asyncio.create_task(nobody, context=contextvars.Context())  # whoever the tests before worked for

        async def as_alice():
            enter(Call("test", {}, None, "test", principal=Principal("acme", "alice")))
            await ask(Network(None, certificates(ours)), address)

        await asyncio.create_task(as_alice())
    assert servicer.principals == [Principal("acme", "alice")]


async def test_a_mesh_with_a_token_asks_for_it_over_tls_too(folders):
    ours, _ = folders

    async def as_alice(token, address):
        enter(Call("test", {}, None, "test", principal=Principal("acme", "alice")))
        await ask(Network(token, certificates(ours)), address)

    async with served(certificates(ours), "right") as (address, servicer):
        for token in (None, "wrong"):
            with pytest.raises(Unauthenticated, match="not a peer"):
                await asyncio.create_task(as_alice(token, address))
        assert servicer.principals == []
        await asyncio.create_task(as_alice("right", address))
    assert servicer.principals == [Principal("acme", "alice")]


async def test_closing_closes_the_channels_with_older_certificates_too(folders):
    ours, _ = folders
    own, waits = certificates(ours), asyncio.Event()

    async def never(_request):
        waits.set()
        await asyncio.Event().wait()

    async with served(own) as (address, servicer):
        servicer.get_run = never
        network = Network(None, own)
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(network.client("orchestrator", address).channel)
        call = stub.GetRun(RUN, timeout=30)
        await waits.wait()
        own.version += 1
        servicer.get_run = answer
        assert (await stub.GetRun(RUN, timeout=5)).run.run_id == "s.1"
        assert not call.done()
        await network.close()
        async with asyncio.timeout(10):
            await asyncio.wait([asyncio.ensure_future(call.code())])
        assert call.cancelled()


async def test_knocking_at_a_port_that_does_not_answer_takes_a_second_at_most():
    with socket.socket() as deaf, contextlib.ExitStack() as filling:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # its backlog is full
            waiting = filling.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        async with asyncio.timeout(3):
            await _knock(*deaf.getsockname())


async def test_the_model_tier_is_called_without_tls_token_or_identity(folders):
    ours, _ = folders
    seen = []

    class Tier(orchestrator_pb2_grpc.OrchestratorServiceServicer):
        async def GetRun(self, request, context):
            seen.append({key for key, _ in context.invocation_metadata() if key.startswith("x-")})
            return run_pb2.GetRunResponse()

    server = grpc.aio.server()
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(Tier(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    async def as_alice():
        enter(Call("test", {}, None, "test", principal=Principal("acme", "alice")))
        await ask(Network("token", certificates(ours)), address, "triton")
        await ask(Network("token"), address, "memory")

    await asyncio.create_task(as_alice())
    assert seen == [set(), {"x-myriad-tenant", "x-myriad-user", "x-myriad-mesh-token"}]
    await server.stop(0)


@pytest.mark.parametrize("given", [("tls_ca_file",), ("tls_certificate_file", "tls_key_file")])
def test_the_three_files_are_set_together(folders, given):
    ours, _ = folders
    with pytest.raises(ValueError, match="are set together"):
        open_kit(KitConfig(auth="insecure-dev", **{name: ours / "ca.pem" for name in given}), "orchestrator")


def test_files_that_cannot_be_used_are_refused_at_the_start(folders, tmp_path):
    ours, _ = folders
    (tmp_path / "junk").write_text("junk")
    good = [ours / "orchestrator.pem", ours / "orchestrator.key", ours / "ca.pem"]
    for index in range(3):
        for bad in (
            tmp_path / "junk",
            tmp_path / "absent",
            ours / ("memory.key" if index == 1 else "orchestrator.key"),
        ):
            if bad != good[index]:
                with pytest.raises(ValueError, match="cannot be used"):
                    Certificates(*good[:index], bad, *good[index + 1 :])


class Rotating:
    """One set of files that is changed under a server and a client that follow it."""

    def __init__(self, folder: Path, first: Path) -> None:
        self.folder = folder
        for name in ("ca.pem", "orchestrator.pem", "orchestrator.key"):
            shutil.copy(first / name, folder / name)
        self.server, self.client = certificates(folder), certificates(folder)
        self._following = [asyncio.create_task(each.follow(0.05)) for each in (self.server, self.client)]

    def put(self, name: str, content: bytes) -> None:
        (self.folder / "new").write_bytes(content)
        os.replace(self.folder / "new", self.folder / name)

    async def taken(self, version: int) -> None:
        async with asyncio.timeout(20):
            while min(self.server.version, self.client.version) < version:  # noqa: ASYNC110 - a test's patience
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        for each in self._following:
            each.cancel()


async def test_certificates_and_the_authority_change_under_load_without_a_failed_call(folders, tmp_path):
    ours, others = folders
    files = Rotating(tmp_path, ours)
    done, stop = [], asyncio.Event()

    async def slow(request):
        yield run_event_pb2.RunEvent(sequence=1)
        await stop.wait()
        yield run_event_pb2.RunEvent(sequence=2)

    async def caller(network, address):
        client = network.client("orchestrator", address)
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        while not stop.is_set():
            done.append((await client.unary(stub.GetRun, RUN, timeout=5)).run.run_id)

    async def watcher(network, address):
        client = network.client("orchestrator", address)
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        stream = client.stream(stub.WatchRun, run_pb2.WatchRunRequest(run_id="s.1"), timeout=30)
        return [each.sequence async for each in stream]

    async with served(files.server) as (address, servicer):
        servicer.watch_run = slow
        network = Network(None, files.client)
        working = [asyncio.create_task(caller(network, address)) for _ in range(8)]
        watching = [asyncio.create_task(watcher(network, address)) for _ in range(8)]
        await asyncio.sleep(0.3)
        # First both authorities are believed, then certificates change to the new one's, then the old one goes.
        files.put("ca.pem", (ours / "ca.pem").read_bytes() + (others / "ca.pem").read_bytes())
        await files.taken(1)
        await asyncio.sleep(0.2)
        files.put("orchestrator.pem", (others / "orchestrator.pem").read_bytes())
        await asyncio.sleep(0.3)  # half changed: nothing is taken
        assert files.server.version == 1
        files.put("orchestrator.key", (others / "orchestrator.key").read_bytes())
        await files.taken(2)
        await asyncio.sleep(0.2)
        files.put("ca.pem", (others / "ca.pem").read_bytes())
        await files.taken(3)
        before = len(done)
        await until(lambda: len(done) > before)
        with pytest.raises(ServiceUnavailable):
            await ask(Network(None, certificates(ours, authority=others)), address)
        stop.set()
        await asyncio.gather(*working)
        assert await asyncio.gather(*watching) == [[1, 2]] * 8
        await network.close()
    files.stop()


async def test_control_a_channel_of_grpcs_own_keeps_the_old_certificate(folders, tmp_path):
    ours, others = folders
    files = Rotating(tmp_path, ours)
    credentials = files.client.client()
    for name in ("ca.pem", "orchestrator.pem", "orchestrator.key"):
        files.put(name, (others / name).read_bytes())
    await files.taken(1)
    async with served(files.server) as (address, _):
        options = [("grpc.ssl_target_name_override", "orchestrator")]
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await orchestrator_pb2_grpc.OrchestratorServiceStub(channel).GetRun(RUN, timeout=2)
        await ask(Network(None, files.client), address)
    files.stop()


async def test_a_process_serves_tls_as_it_is_configured(folders, tmp_path):
    ours, _ = folders
    variables = {
        "MYRIAD_AUTH": "mesh",
        "MYRIAD_TLS_CERTIFICATE_FILE": str(ours / "orchestrator.pem"),
        "MYRIAD_TLS_KEY_FILE": str(ours / "orchestrator.key"),
        "MYRIAD_TLS_CA_FILE": str(ours / "ca.pem"),
    }
    (tmp_path / "answer").touch()
    async with running("tests.support.process", tmp_path, variables) as process:
        network = Network(None, certificates(ours))
        client = network.client("orchestrator", process.address)
        await asyncio.wait_for(client.channel.channel_ready(), 20)
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        identity = [("x-myriad-tenant", "acme"), ("x-myriad-user", "alice")]
        assert (await stub.GetRun(RUN, metadata=identity, timeout=5)).run.run_id == "s.1"
        await network.close()
        with pytest.raises(ServiceUnavailable):
            await ask(Network(None), process.address)
        await appeared(tmp_path / "called")


@pytest.mark.chaos
@pytest.mark.timeout(120)
async def test_a_process_lives_through_a_minute_of_new_connections_and_changes(folders, tmp_path):
    ours, others = folders
    files = Rotating(tmp_path, ours)
    variables = {
        "MYRIAD_TLS_CERTIFICATE_FILE": str(tmp_path / "orchestrator.pem"),
        "MYRIAD_TLS_KEY_FILE": str(tmp_path / "orchestrator.key"),
        "MYRIAD_TLS_CA_FILE": str(tmp_path / "ca.pem"),
    }
    both = (ours / "ca.pem").read_bytes() + (others / "ca.pem").read_bytes()
    (tmp_path / "answer").touch()
    answered = 0

    async def connect_again_and_again(until):
        nonlocal answered
        while asyncio.get_running_loop().time() < until:
            answered += bool(await ask(Network(None, files.client), process.address))

    async with running("tests.support.process", tmp_path, variables) as process:
        network = Network(None, files.client)
        await asyncio.wait_for(network.client("orchestrator", process.address).channel.channel_ready(), 20)
        await network.close()
        files.put("ca.pem", both)
        await asyncio.sleep(3)
        until = asyncio.get_running_loop().time() + 60
        connecting = [asyncio.create_task(connect_again_and_again(until)) for _ in range(8)]
        for turn in range(12):
            source = (others, ours)[turn % 2]
            files.put("orchestrator.pem", (source / "orchestrator.pem").read_bytes())
            files.put("orchestrator.key", (source / "orchestrator.key").read_bytes())
            await asyncio.sleep(4)
        await asyncio.gather(*connecting)
        assert process.process.returncode is None
    assert answered > 500
    files.stop()


async def test_a_call_made_for_another_over_tls_has_that_ones_deadline(folders):
    ours, _ = folders
    left = []
    async with served(certificates(ours)) as (inner, servicer):

        async def note(request):
            left.append(current_call().remaining())
            return run_pb2.GetRunResponse()

        servicer.get_run = note
        kit = Kit(open_telemetry("test", "", 0.0), None, certificates(ours))
        client = kit.network.client("orchestrator", inner)
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)

        async def pass_on(request):
            return await client.unary(stub.GetRun, request, timeout=30)

        async with serving(kit, Scripted(get_run=pass_on)) as outer:
            await ask(Network(None, certificates(ours)), outer)
        await kit.network.close()
    assert 0 < left[0] < 2
