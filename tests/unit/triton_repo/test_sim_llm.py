"""How the scripted model looks for those who left: often enough, and not at the price of the scripts that run."""

import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.model_files import loaded

SCRIPTS = 1_000


class Sender:
    """A caller of Triton's."""

    def __init__(self) -> None:
        self.left = False
        self.looks = 0
        self.ended = False

    def is_cancelled(self) -> bool:
        self.looks += 1
        return self.left

    def send(self, response: object = None, flags: int = 0) -> None:
        self.ended = self.ended or bool(flags)


class Sum:
    """A metric."""

    def __init__(self) -> None:
        self.value = 0

    def increment(self, by: int) -> None:
        self.value += by


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    triton = ModuleType("triton_python_backend_utils")
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, triton.__name__, triton)
    monkeypatch.delitem(sys.modules, "script", raising=False)
    return loaded(monkeypatch, "sim_llm", "model")


@pytest.fixture
def senders(request: pytest.FixtureRequest) -> list[Sender]:
    return [Sender() for _ in range(getattr(request, "param", SCRIPTS))]


some = pytest.mark.parametrize("senders", [SCRIPTS // 4], indirect=True)
"""For what does not take a thousand, of whom each waits for its turn."""


@pytest.fixture
def metrics() -> Any:
    return SimpleNamespace(running=Sum(), cancelled=Sum())


@pytest.fixture
def stage(model: ModuleType, senders: list[Sender], metrics: Any) -> Iterator[Any]:
    """All scripts run, and have a minute until their next response."""
    made = model._Stage(metrics)
    for sender in senders:
        made.add(iter([SimpleNamespace(wait_s=60.0)]), sender)
    yield made
    made.close()


def wait_until(condition: Any, seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.001)
    return time.monotonic() - began


def test_a_thousand_who_leave_at_once_are_seen_at_once(stage: Any, senders: list[Sender], metrics: Any) -> None:
    wait_until(lambda: all(sender.looks for sender in senders), 20)
    for sender in senders:
        sender.left = True
    assert wait_until(lambda: all(sender.ended for sender in senders), 5) < 0.5
    assert (metrics.running.value, metrics.cancelled.value) == (0, SCRIPTS)


@some
def test_one_who_leaves_is_seen_when_its_turn_comes(stage: Any, senders: list[Sender], metrics: Any) -> None:
    wait_until(lambda: senders[170].looks, 5)
    senders[170].left = True
    assert wait_until(lambda: senders[170].ended, 20) < 4
    assert sum(sender.ended for sender in senders) == metrics.cancelled.value == 1


@some
def test_to_look_costs_a_tenth_of_a_core_however_many_scripts_run(stage: Any, senders: list[Sender]) -> None:
    wait_until(lambda: senders[-1].looks, 5)
    before, began = sum(sender.looks for sender in senders), time.monotonic()
    time.sleep(0.3)
    looks = sum(sender.looks for sender in senders) - before
    assert 0 < looks * 0.00005 <= 0.12 * (time.monotonic() - began)
