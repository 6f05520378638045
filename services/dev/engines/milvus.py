"""Milvus Lite's server, from the wheel `milvus-lite`, which carries the engine's binary."""

import importlib.util
import subprocess
from pathlib import Path

from services.dev.engines import Launch

_FIND = "import importlib.util as u; print(u.find_spec('milvus_lite').submodule_search_locations[0])"
_DATA = "milvus.db"


class MilvusMissing(Exception):
    """The environment has no Milvus for this machine."""


def launch(*, python: Path | None = None, work: Path, port: int) -> Launch:
    """One server on loopback that keeps its data in `work`.

    It is ready when it answers `milvus.proto.milvus.MilvusService/ShowCollections`; it has neither the health service
    nor `GetVersion`. What it answered that it wrote is there after a kill.

    Args:
        python: Interpreter of the environment that has milvus-lite. None: this one.
        work: An existing folder. A server started in it again has the data of the one before.
        port: A free port.

    Raises:
        MilvusMissing: the environment has no milvus-lite, or none for this machine.
    """
    libraries = _package(python) / "lib"
    server = libraries / "milvus"
    if not server.is_file():
        raise MilvusMissing("milvus-lite has no server for this machine")
    return Launch(
        argv=(str(server), str(work / _DATA), f"127.0.0.1:{port}", "ERROR"),
        env={"LD_LIBRARY_PATH": str(libraries)},
        stop_grace_s=10.0,
    )


def _package(python: Path | None) -> Path:
    if python is None:
        spec = importlib.util.find_spec("milvus_lite")
        if spec is None or not spec.submodule_search_locations:
            raise MilvusMissing("this environment has no milvus-lite")
        return Path(spec.submodule_search_locations[0])
    found = subprocess.run([str(python), "-c", _FIND], capture_output=True, text=True, timeout=30, check=False)
    if found.returncode:
        raise MilvusMissing(f"the environment of {python} has no milvus-lite")
    return Path(found.stdout.strip())
