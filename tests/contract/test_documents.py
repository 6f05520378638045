"""What the documents name is there: where a link leads, a verb of make, a command of `myriad`, a file, a test."""

import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from services.dev.cli import make_app

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = frozenset(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
SETTINGS = frozenset(re.findall(r"\$\(([A-Z]+)\)", MAKEFILE))
SUFFIXES = frozenset({".json", ".lua", ".md", ".mjs", ".proto", ".py", ".toml", ".txt", ".yaml"})
TO_BE_WRITTEN = frozenset({"1/model.json"})
"""Files that a document tells its reader to make."""

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
MAKE = re.compile(r"\bmake ((?:[A-Z]+=\S+ )*)([a-z]+)(?![/\w])((?: [A-Z]+=\S+)*)")
MYRIAD = re.compile(r"(?:\.venv/bin/|^|\$ )myriad (?:--work \S+ )?([a-z]+)(.*)")
PATH = re.compile(r"[\w-]+(?:/[\w.-]+)+(?:::\w+)?")


@functools.cache
def files() -> tuple[str, ...]:
    """What git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file()))


def code(text: str) -> Iterator[str]:
    """Lines and words that a reader may paste or look for."""
    for block in FENCED.findall(text):
        yield from block.splitlines()
    yield from INLINE.findall(FENCED.sub("", text))


def missing(name: str, text: str) -> list[str]:
    """What a document names and is not there."""
    folder = (ROOT / name).parent
    found = [f"link {target}" for target in LINK.findall(FENCED.sub("", text)) if not leads_somewhere(folder, target)]
    for piece in code(text):
        found += missing_verbs(piece)
        found += missing_commands(piece)
        if PATH.fullmatch(piece) and not is_there(piece):
            found.append(f"file {piece}")
    return found


def leads_somewhere(folder: Path, target: str) -> bool:
    """Whether a link's file is there and has the heading. Other sites are believed."""
    if target.startswith("https://"):
        return True
    path, _, heading = target.partition("#")
    file = folder / path if path else None
    if file is not None and not file.exists():
        return False
    return not heading or (file is not None and heading in headings(file.read_text()))


def headings(text: str) -> set[str]:
    """Headings as links name them."""
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def missing_verbs(piece: str) -> list[str]:
    """Verbs of make, and settings, that the Makefile does not know."""
    found = []
    for before, verb, after in MAKE.findall(piece):
        found += [] if verb in VERBS else [f"make {verb}"]
        found += [f"make {verb} {name}=" for name in re.findall(r"([A-Z]+)=", before + after) if name not in SETTINGS]
    return found


def missing_commands(piece: str) -> list[str]:
    """Commands of `myriad`, and options, that it does not have."""
    named = MYRIAD.search(piece)
    if named is None:
        return []
    command, words = typer.main.get_command(make_app()), [named[1], *named[2].split()]
    for word in words:
        if not isinstance(command, TyperGroup):
            break
        if word not in command.commands:
            return [f"myriad {word}"]
        command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts}
    return [f"myriad {option}" for option in re.findall(r"--[a-z-]+", named[2]) if option not in options]


def is_there(named: str) -> bool:
    """Whether a file, and the test in it, is there. A path may leave out the folders it begins with."""
    path, _, test = named.partition("::")
    if Path(path).suffix not in SUFFIXES or path in TO_BE_WRITTEN:
        return True
    found = [name for name in files() if f"/{name}".endswith(f"/{path}")]
    return any(not test or f"def {test}(" in (ROOT / name).read_text() for name in found)


def test_each_protection_names_the_tests_that_show_it() -> None:
    """A file shows nothing in particular."""
    section = (
        (ROOT / "docs" / "security.md").read_text().partition("## What is protected by what")[2].partition("\n## ")[0]
    )
    _, _, *rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    assert [row[0] for row in rows if not all("::" in shown for shown in INLINE.findall(row[3]))] == []


@pytest.mark.parametrize("name", [name for name in files() if name.endswith(".md")])
def test_what_a_document_names_is_there(name: str) -> None:
    assert missing(name, (ROOT / name).read_text()) == []


@pytest.mark.parametrize(
    "text, named",
    [
        ("[this](docs/absent.md)", "link docs/absent.md"),
        ("[this](CONTRIBUTING.md#absent)", "link CONTRIBUTING.md#absent"),
        ("`make absent`", "make absent"),
        ("`make up ABSENT=1`", "make up ABSENT="),
        ("```\n$ make absent\n```", "make absent"),
        ("`myriad absent`", "myriad absent"),
        ("`.venv/bin/myriad agents absent`", "myriad absent"),
        ("```\n$ .venv/bin/myriad up --absent\n```", "myriad --absent"),
        ("`services/kit/absent.py`", "file services/kit/absent.py"),
        (
            "`tests/contract/test_documents.py::test_absent`",
            "file tests/contract/test_documents.py::test_absent",
        ),
    ],
)
def test_what_is_not_there_is_found(text: str, named: str) -> None:
    assert missing("README.md", text) == [named]


def test_what_is_there_is_not_found() -> None:
    text = "[this](CONTRIBUTING.md#twelve-conventions) `make up AUTH=1` `kit/keys.py` `myriad agents apply PATH`"
    assert missing("README.md", text) == []
