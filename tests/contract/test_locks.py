"""An image holds what its service's lock file names, and no more; a service must start with that."""

import functools
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from services.kit import topology

ROOT = Path(__file__).parents[2]
OURS = frozenset({"buf", "myriad", "services"})
"""What an image holds without a package."""
IMPORT = """
import importlib, sys
service, *absent = sys.argv[1:]

class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
importlib.import_module(f"services.{service}.app")
"""


def locked(service: str) -> set[str]:
    """Packages of a lock file."""
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / f"{service}.txt").read_text(), re.MULTILINE))


@functools.cache
def installed() -> Mapping[str, list[str]]:
    """Packages by the module that they bring."""
    return metadata.packages_distributions()


def absent(packages: set[str]) -> list[str]:
    """What can be imported here, and could not be if only these packages were installed."""
    return [
        module
        for module, names in installed().items()
        if module not in OURS and not packages & {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    ]


def imported(service: str, packages: set[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORT, service, *absent(packages)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("service", topology.SERVICES)
def test_a_service_needs_no_package_that_its_lock_file_does_not_name(service: str) -> None:
    done = imported(service, locked(service))
    assert done.returncode == 0, done.stderr


def test_a_package_that_a_lock_file_does_not_name_is_missed() -> None:
    done = imported("orchestrator", locked("orchestrator") - {"packaging"})  # tritonclient needs it, and does not say
    assert "No module named 'packaging'" in done.stderr
