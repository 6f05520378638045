"""What is known of the stack survives on disk, and whose folder it is."""

from pathlib import Path

import pytest

from services.dev import processes
from services.dev.state import Folder, PartState, StackState, State


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "work")
    made.make()
    return made


def test_state_is_read_as_it_was_written(folder: Folder) -> None:
    part = PartState("127.0.0.1:1", State.READY, pid=7, started="1@boot", ready_after_s=0.5, restarts=2, message="m")
    state = StackState("mark", 3, "2@boot", True, State.READY, {"nlu": part}, {"nlu": "127.0.0.1:1"})
    folder.write(state)
    assert folder.read() == state


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"parts": {"nlu": {"state": "lost"}}}', '{"parts": 3}'])
def test_broken_state_counts_as_none(folder: Folder, text: str) -> None:
    (folder.path / "stack.json").write_text(text)
    assert folder.read() is None


def test_folder_has_one_owner(folder: Folder) -> None:
    assert not folder.is_owned()
    with folder.owned() as first:
        with folder.owned() as second:
            assert (first, second) == (True, False)
        assert folder.is_owned()
    assert not folder.is_owned()


def test_state_without_an_owner_is_no_running_stack(folder: Folder) -> None:
    folder.write(StackState("mark", 1, "0@boot", False))
    assert not folder.is_owned()


def test_pid_alone_does_not_name_a_process() -> None:
    me = processes.me()
    assert processes.is_running(me.pid, me.started)
    assert not processes.is_running(me.pid, "0@another-boot")
