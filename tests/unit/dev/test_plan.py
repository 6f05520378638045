"""What a stack is made of."""

import stat
from pathlib import Path

import pytest

from services.dev import plan
from services.dev.engines import Launch
from services.dev.plan import Options
from services.dev.ports import Ports
from services.dev.state import Folder
from services.dev.users import ACL_FILE
from services.kit import topology
from services.kit.acl import USERS

NAMES = [*topology.PROCESSES, *(f"{name}_metrics" for name in topology.PROCESSES), *topology.ENDPOINTS]
ADDRESSES = {name: f"127.0.0.1:{9000 + index}" for index, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    for engine in (plan.valkey, plan.milvus, plan.triton, plan.envoy):
        monkeypatch.setattr(engine, "launch", lambda *_args, name=engine.__name__, **_kw: Launch((name,), {}))
    monkeypatch.setattr(plan.envoy, "render", lambda _edge, folder: folder / "envoy.yaml")
    made = Folder(tmp_path)
    made.make()
    return made


@pytest.mark.parametrize("vertical", [False, True])
def test_every_part_comes_after_those_it_needs(folder: Folder, vertical: bool) -> None:
    seen: set[str] = set()
    for part in plan.plan(folder, ADDRESSES, Options(vertical=vertical)):
        assert set(part.needs) <= seen
        seen.add(part.name)


def test_every_service_and_a_worker_are_parts(folder: Folder) -> None:
    parts = {part.name for part in plan.plan(folder, ADDRESSES, Options())}
    assert parts == {*topology.SERVICES, "worker", "valkey", "milvus", "triton", "crm", "envoy"}


def test_one_process_takes_the_place_of_all_services(folder: Folder) -> None:
    parts = {part.name: part for part in plan.plan(folder, ADDRESSES, Options(vertical=True))}
    assert set(parts) == {"vertical", "valkey", "milvus", "triton", "crm", "envoy"}
    assert parts["vertical"].address == ADDRESSES["orchestrator"]


def test_everything_is_made_on_the_loopback(folder: Folder) -> None:
    class AnyPort:
        def choose(self, wanted: int) -> int:
            return wanted + 1

    addresses = plan.choose_addresses(AnyPort(), Options(vertical=True))  # type: ignore[arg-type]
    assert all(address.startswith("127.0.0.1:") for address in addresses.values())
    assert {addresses[name] for name in topology.SERVICES} == {"127.0.0.1:7101"}


def with_replicas(**many: int) -> dict[str, str]:
    class NextPort:
        last = 9000

        def choose(self, _wanted: int) -> int:
            self.last += 1
            return self.last

    return plan.choose_addresses(NextPort(), Options(replicas=many))  # type: ignore[arg-type]


def test_replicas_are_parts_with_ports_of_their_own(folder: Folder) -> None:
    addresses = with_replicas(memory=2, orchestrator=3)
    options = Options(replicas={"memory": 2, "orchestrator": 3})
    parts = {part.name: part for part in plan.plan(folder, addresses, options)}
    assert {"memory", "memory-2", "orchestrator", "orchestrator-2", "orchestrator-3"} <= set(parts)
    assert "nlu-2" not in parts
    assert len(set(addresses.values())) == len(addresses)
    assert parts["memory-2"].launch.env["MYRIAD_PORT"] == addresses["memory-2"].rpartition(":")[2]
    assert parts["memory-2"].launch.argv == parts["memory"].launch.argv
    assert {"orchestrator", "orchestrator-2", "orchestrator-3"} <= set(parts["envoy"].needs)
    assert {"memory", "memory-2"} <= set(parts["nlu"].needs)


def test_a_worker_is_an_orchestrator_that_nobody_is_sent_to(folder: Folder) -> None:
    addresses = with_replicas(worker=2)
    parts = {part.name: part for part in plan.plan(folder, addresses, Options(replicas={"worker": 2}))}
    assert parts["worker"].launch.argv[-3:] == ("-m", "services.orchestrator", "worker")
    assert parts["worker-2"].launch.argv == parts["worker"].launch.argv
    assert parts["worker-2"].address == addresses["worker-2"] != addresses["worker"]
    assert parts["worker"].needs == parts["orchestrator"].needs
    assert not {"worker", "worker-2"} & set(parts["envoy"].needs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(replicas={"envoy": 2}), "no service 'envoy'"),
        (Options(replicas={"nlu": 0}), "1 to 9"),
        (Options(replicas={"nlu": 10}), "1 to 9"),
        (Options(vertical=True, replicas={"nlu": 2}), "no replicas"),
    ],
)
def test_replicas_that_cannot_be_are_refused(options: Options, said: str) -> None:
    with Ports("127.0.0.1") as ports, pytest.raises(ValueError, match=said):
        plan.choose_addresses(ports, options)


def test_keys_are_made_only_for_a_stack_that_needs_them(folder: Folder) -> None:
    plan.plan(folder, ADDRESSES, Options())
    assert not folder.keys.exists()
    plan.plan(folder, ADDRESSES, Options(auth=True))
    assert {file.name for file in folder.keys.iterdir()} == {"signing.json", "jwks.json", "mesh.token"}
    plan.plan(folder, ADDRESSES, Options(auth=True, tls=True))
    holders = {"ca", "envoy", "operator", "vertical", "worker", *topology.SERVICES}
    assert {file.stem for file in folder.keys.glob("*.pem")} == holders


def test_passwords_of_the_store_are_kept_for_their_owner_and_handed_to_services_alone(folder: Folder) -> None:
    plan.plan(folder, ADDRESSES, Options())
    made = {user: (folder.store / user).read_text() for user in USERS}
    parts = plan.plan(folder, ADDRESSES, Options(auth=True, tls=True))
    assert {user: (folder.store / user).read_text() for user in USERS} == made
    assert {file.name for file in folder.store.iterdir()} == {*USERS, ACL_FILE}
    assert stat.S_IMODE(folder.store.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.store.iterdir()} == {0o600}
    assert min(map(len, made.values())) >= 64
    for user, password in made.items():
        told = [part.name for part in parts if password in str(part.launch.env)]
        assert told == {"orchestrator": ["orchestrator", "worker"], "operator": []}.get(user, [user])
        assert not [part.name for part in parts if password in str(part.launch.argv)]
        assert password not in (folder.store / ACL_FILE).read_text()


def test_ports_of_the_topology_are_all_different() -> None:
    wanted = [service.port for service in topology.PROCESSES.values()]
    wanted += [service.metrics_port for service in topology.PROCESSES.values()]
    wanted += [endpoint.port for endpoint in topology.ENDPOINTS.values()]
    assert len(set(wanted)) == len(wanted)
    assert max(wanted) < 32768
