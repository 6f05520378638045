"""docs/security.md names what is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`((?:services|envoy|tests)/[\w./-]+\.(?:py|lua))(?:::(\w+))?`")


def functions(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_file_and_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE.read_text())
    missing = [path for path, _ in named if not (ROOT / path).is_file()]
    assert missing == []
    gone = [f"{path}::{test}" for path, test in named if test and test not in functions(ROOT / path)]
    assert gone == []
    assert len(named) > 30


def test_every_row_has_a_guard_a_place_and_a_test() -> None:
    (section,) = re.findall(r"^## What is protected by what\n(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    bare = [threat for threat, guard, where, test in rows if not (guard.strip() and "`" in where and "tests/" in test)]
    assert bare == []
    assert len(rows) >= 15


def test_every_test_of_this_folder_is_named_on_the_page() -> None:
    page = PAGE.read_text()
    here = {file.name for file in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert {name for name in here if f"tests/security/{name}" not in page} == set()
