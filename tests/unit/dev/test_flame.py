"""Flame graphs of the benchmarks: where none comes of it, that is known."""

from pathlib import Path

import pytest

from services.dev.bench import flame
from services.dev.bench.load import Load
from services.dev.bench.turn import Loaded, Result, _seen


@pytest.mark.parametrize("program", ["/nonexistent/py-spy", "/bin/false"], ids=["missing", "not allowed"])
async def test_a_process_that_cannot_be_watched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(flame, "_SPY", program)
    (tmp_path / "memory.svg").write_text("of a run before")
    async with flame.recorded({"memory": 1, "nlu": 2, "valkey": 3}, tmp_path) as unseen:
        pass
    assert unseen == ["memory", "nlu"]
    assert not (tmp_path / "memory.svg").exists()


async def test_a_process_that_is_watched_has_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = tmp_path / "spy"
    spy.write_text('#!/bin/sh\nfor last; do :; done\necho drawn > "$last"\necho begun\n')
    spy.chmod(0o755)
    monkeypatch.setattr(flame, "_SPY", str(spy))
    async with flame.recorded({"memory": 1}, tmp_path / "drawn") as unseen:
        pass
    assert unseen == []
    assert (tmp_path / "drawn" / "memory.svg").read_text() == "drawn\n"


@pytest.mark.parametrize(("unseen", "said"), [((), ""), (("memory", "nlu"), "none of memory, nlu")])
def test_the_section_says_which_pictures_are_missing(unseen: tuple[str, ...], said: str) -> None:
    result = Result("five processes")
    result.turns[32] = Loaded(Load(0, 0, 1.0, ()), {}, unseen)
    text = _seen([result])
    assert said in text
    assert bool(text) == bool(unseen)
