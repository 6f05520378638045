"""Who runs beside whom: tests share the machine; one that must be alone waits, is alone, and is not overtaken."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import lanes
from tests.support.lanes import LONGEST_FIRST, place

SOON_S = 5.0
A_WHILE_S = 0.05
TESTS = Path(lanes.__file__).parent.parent


class Lane:
    """A lane that takes a place for a test, and keeps it until it is told to leave."""

    def __init__(self, *, alone: bool) -> None:
        self.taken, self._leaves = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, args=(alone,), daemon=True)
        self._thread.start()

    def _keep(self, alone: bool) -> None:
        with place(alone=alone):
            self.taken.set()
            self._leaves.wait(SOON_S)

    def leave(self) -> None:
        self._leaves.set()

    def join(self) -> None:
        self._thread.join(SOON_S)


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Lane]]:
    """Makes lanes that do not wait for those this very test runs in. They leave when it ends."""
    made: list[Lane] = []
    for lock in ("GATE", "FLOOR"):
        (tmp_path / lock).touch()
        monkeypatch.setattr(lanes, lock, tmp_path / lock)

    def make(*, alone: bool) -> Lane:
        made.append(Lane(alone=alone))
        return made[-1]

    yield make
    for one in made:
        one.leave()
    for one in made:
        one.join()


def test_tests_run_beside_each_other(lane: Callable[..., Lane]) -> None:
    assert all(lane(alone=False).taken.wait(SOON_S) for _ in range(3))


def test_one_that_must_be_alone_waits_for_the_others_and_they_for_it(lane: Callable[..., Lane]) -> None:
    others = [lane(alone=False), lane(alone=False)]
    assert all(other.taken.wait(SOON_S) for other in others)
    single = lane(alone=True)
    others[0].leave()
    assert not single.taken.wait(A_WHILE_S)
    others[1].leave()
    assert single.taken.wait(SOON_S)
    late = [lane(alone=False), lane(alone=True)]
    assert not any(one.taken.wait(A_WHILE_S) for one in late)
    single.leave()
    assert any(one.taken.wait(A_WHILE_S) for _ in range(round(SOON_S / A_WHILE_S)) for one in late)


def test_nobody_overtakes_one_that_waits_to_be_alone(lane: Callable[..., Lane]) -> None:
    first = lane(alone=False)
    assert first.taken.wait(SOON_S)
    single = lane(alone=True)
    assert not single.taken.wait(A_WHILE_S)
    late = lane(alone=False)
    assert not late.taken.wait(A_WHILE_S)
    first.leave()
    assert single.taken.wait(SOON_S)
    assert not late.taken.wait(A_WHILE_S)


def test_every_folder_of_tests_has_its_turn() -> None:
    folders = {file.relative_to(TESTS).parts[0] for file in TESTS.rglob("test_*.py")}
    assert folders == set(LONGEST_FIRST)
