"""What `myriad status` shows a person."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from services.dev.processes import Meter
from services.dev.state import Folder
from services.dev.status import drawn
from services.dev.table import LastLines


def shown(folder: Folder, state: str, restarts: int = 0) -> str:
    part = {"state": state, "address": "127.0.0.1:7104", "pid": 0, "restarts": restarts, "message": "died"}
    known: dict[str, Any] = {"state": state, "rss_mib": 0.0, "parts": {"memory": part}}
    written = io.StringIO()
    Console(file=written, width=120).print(drawn(folder, known, Meter(), LastLines(folder.log)))
    return written.getvalue()


@pytest.mark.parametrize(
    ("state", "restarts", "is_hurt"),
    [("restarting", 1, True), ("failed", 0, True), ("starting", 1, True), ("starting", 0, False), ("ready", 1, False)],
)
def test_the_end_of_its_log_stands_below_while_a_part_is_hurt(
    tmp_path: Path, state: str, restarts: int, is_hurt: bool
) -> None:
    folder = Folder(tmp_path)
    folder.make()
    folder.log("memory").write_text("first words\nlast words\n")
    text = shown(folder, state, restarts)
    assert text.index("● memory") < text.index("resident in all")
    assert ("\nmemory died\n  first words\n  last words\n" in text) is is_hurt
