"""A copy of this repository with a sixth service, `greeter`: its new files, and the edits of those that are here.

Its new files lie in `tests/support/greeter/`, each where it belongs below the root; two manifests are copies of
another service's, as CONTRIBUTING.md says.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[2]
NEW_FILES = Path(__file__).parent / "greeter"
PROGRAMS = Path(sys.executable).parent

_ROW = 'Service("greeter", 7105, "myriad.greeter.v1.GreeterService", public=False, timeout_s=2.0, needs=())'
EDITS: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType(
    {
        "services/kit/topology.py": [(")\nSERVICES = ", f"    {_ROW},\n)\nSERVICES = ")],
        "pyproject.toml": [
            ("# Fits the intent heads", "greeter = []\n# Fits the intent heads"),
            ('"dev | ', '"dev | greeter | '),
            ('containers = ["services.memory"', 'containers = ["services.greeter", "services.memory"'),
        ],
        "services/vertical/app.py": [
            (
                "from services.kit.app import",
                "from services.greeter import app as greeter\n"
                "from services.greeter.config import Config as GreeterConfig\n"
                "from services.kit.app import",
            ),
            ("    memory: MemoryConfig\n", "    memory: MemoryConfig\n    greeter: GreeterConfig\n"),
            (
                "        memory=_met",
                '        greeter=_met_inproc(load(GreeterConfig, environ, "MYRIAD_GREETER_")),\n        memory=_met',
            ),
            ("        await memory.", "        await greeter.build(configs.greeter, kit),\n        await memory."),
        ],
        "k8s/base/kustomization.yaml": [
            ("- memory\n", "- memory\n- greeter\n"),
            (
                "- {name: myriad-memory, newTag: 0.1.0}\n",
                "- {name: myriad-memory, newTag: 0.1.0}\n- {name: myriad-greeter, newTag: 0.1.0}\n",
            ),
        ],
        "README.md": [
            (
                "| 7104 |\n",
                "| 7104 |\n| `greeter` | greetings by the time of day | nobody | 7105 |\n",
            )
        ],
    }
)
"""File to the texts that are there once, and what takes their place."""


class Copy:
    """The repository elsewhere, as it is in the working tree."""

    def __init__(self, folder: Path) -> None:
        """Copies what git tracks, or would, and adds the new files."""
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        for part in ("k8s", "protos", "services", "tests"):
            shutil.copytree(NEW_FILES / part, folder / part, dirs_exist_ok=True)
        for manifest in ("deployment.yaml", "service.yaml"):
            text = (folder / "k8s" / "base" / "retrieval" / manifest).read_text()
            for before, now in {"retrieval": "greeter", "7102": "7105", "7202": "7205"}.items():
                text = text.replace(before, now)
            (folder / "k8s" / "base" / "greeter" / manifest).write_text(text)

    def twin(self, folder: Path) -> "Copy":
        """The same in another folder, which is there and empty."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        made = copy(self)
        made.folder = folder
        return made

    def edit(self, name: str) -> None:
        """Makes the edits of one file.

        Raises:
            ValueError: a text that is to be replaced is not there once.
        """
        text = (self.folder / name).read_text()
        for before, now in EDITS[name]:
            if text.count(before) != 1:
                raise ValueError(
                    f"{name} has {before!r} {text.count(before)} times: the edits of this test are outdated"
                )
            text = text.replace(before, now)
        (self.folder / name).write_text(text)

    def undo(self, name: str) -> None:
        """Puts the file back as it was."""
        shutil.copy2(ROOT / name, self.folder / name)

    @property
    def environ(self) -> dict[str, str]:
        """For programs that are to find the copy's modules, not this repository's."""
        paths = f"{self.folder}{os.pathsep}{self.folder / 'protos' / 'gen'}"
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return {**own, "PYTHONPATH": paths}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs Python in the copy."""
        return subprocess.run(
            [sys.executable, *command], cwd=self.folder, env=self.environ, capture_output=True, text=True, check=False
        )

    def tests(self, *names: str) -> subprocess.CompletedProcess[str]:
        """Runs tests of the copy, each named in the output."""
        return self.run("-m", "pytest", "-pno:cacheprovider", "-v", *names)

    def generate(self) -> None:
        """Does what `make gen` does.

        Raises:
            subprocess.CalledProcessError: it cannot.
        """
        said = subprocess.run(["make", "-n", "gen"], cwd=self.folder, capture_output=True, text=True, check=True)
        python = ".venv/bin/python "
        for line in said.stdout.splitlines():
            if line.startswith(python):
                self.run(*line.removeprefix(python).split()).check_returncode()
