"""What a stack is made of."""

from pathlib import Path

import pytest

from services.dev import plan
from services.dev.engines import Launch
from services.dev.plan import Options
from services.dev.state import Folder
from services.kit import topology

NAMES = [*topology.SERVICES, *(f"{name}_metrics" for name in topology.SERVICES), *topology.ENDPOINTS]
ADDRESSES = {name: f"127.0.0.1:{9000 + index}" for index, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    for engine in (plan.valkey, plan.milvus, plan.triton, plan.envoy):
        monkeypatch.setattr(engine, "launch", lambda *_args, name=engine.__name__, **_kw: Launch((name,), {}))
    made = Folder(tmp_path)
    made.make()
    return made


@pytest.mark.parametrize("vertical", [False, True])
def test_every_part_comes_after_those_it_needs(folder: Folder, vertical: bool) -> None:
    seen: set[str] = set()
    for part in plan.plan(folder, ADDRESSES, Options(vertical=vertical)):
        assert set(part.needs) <= seen
        seen.add(part.name)


def test_every_service_is_a_part(folder: Folder) -> None:
    parts = {part.name for part in plan.plan(folder, ADDRESSES, Options())}
    assert parts == {*topology.SERVICES, "valkey", "milvus", "triton", "crm", "envoy"}


def test_one_process_takes_the_place_of_all_services(folder: Folder) -> None:
    parts = {part.name: part for part in plan.plan(folder, ADDRESSES, Options(vertical=True))}
    assert set(parts) == {"vertical", "valkey", "milvus", "triton", "crm", "envoy"}
    assert parts["vertical"].address == ADDRESSES["orchestrator"]


def test_everything_is_made_on_the_loopback(folder: Folder) -> None:
    class AnyPort:
        def choose(self, wanted: int) -> int:
            return wanted + 1

    addresses = plan.choose_addresses(AnyPort(), vertical=True)  # type: ignore[arg-type]
    assert all(address.startswith("127.0.0.1:") for address in addresses.values())
    assert {addresses[name] for name in topology.SERVICES} == {"127.0.0.1:7101"}


def test_ports_of_the_topology_are_all_different() -> None:
    wanted = [service.port for service in topology.SERVICES.values()]
    wanted += [service.metrics_port for service in topology.SERVICES.values()]
    wanted += [endpoint.port for endpoint in topology.ENDPOINTS.values()]
    assert len(set(wanted)) == len(wanted)
    assert max(wanted) < 32768
