"""The example clients: which toolchains are here, and how their clients are built and called."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from services.dev.state import ROOT

CLIENTS = ROOT / "examples" / "clients"
BUILD_S = 240
"""A first build downloads what it needs and, in Go, compiles the standard library."""
CALL_S = 60
NOT_EXPECTED = "MYRIAD_NO_TOOLCHAIN"
"""Names what a CI machine is known to lack: `go,java`."""


class ClientFailed(Exception):
    """A client was not built, or did not come to its end. The message is what was said."""


@dataclass(frozen=True)
class Client:
    """An example client."""

    language: str
    """Its folder, and its target in the Makefile."""
    toolchain: str
    """What a machine has or lacks."""
    programs: tuple[str, ...]
    """What the toolchain puts on the path."""
    command: tuple[str, ...]
    """Runs it, in its folder."""


SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Java that does not warm up: a client here lives for a second or two."""

CLIENT_LIST = (
    Client("node", "node", ("node", "npm"), ("node", "client.mjs")),
    Client("web", "node", ("node", "npm"), ("node", "client.mjs")),
    Client("go", "go", ("go",), ("build/client",)),
    Client("java", "java", ("java", "javac", "mvn"), ("java", *SHORT_LIVED, "-cp", "classes:lib/*", "Client")),
)


def absent(client: Client, environ: Mapping[str, str]) -> list[str]:
    """The programs a client needs and this machine lacks."""
    return [name for name in client.programs if shutil.which(name, path=environ.get("PATH")) is None]


def require(client: Client, environ: Mapping[str, str]) -> None:
    """Skips the test where the client's toolchain is not, and says so; fails it in CI, where a skip is not read.

    A CI machine that is known to lack a toolchain says so: `MYRIAD_NO_TOOLCHAIN=go,java`.
    """
    missing = absent(client, environ)
    if not missing:
        return
    said = f"the {client.language} client is not tested: no {', '.join(missing)} on the path"
    if environ.get("CI") and client.toolchain not in environ.get(NOT_EXPECTED, "").split(","):
        pytest.fail(f"{said}; if that is meant, set {NOT_EXPECTED}={client.toolchain}")
    pytest.skip(said)


async def build(client: Client) -> None:
    """Makes a client, or what of it is not up to date. Two at once, of two test runs, wait for each other.

    Raises:
        ClientFailed: it could not be made.
    """
    work = ROOT / ".myriad"
    work.mkdir(exist_ok=True)
    with (work / "clients.lock").open("w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        tools = Path(sys.executable).parent
        await _run("make", "-C", str(CLIENTS), client.language, f"BIN={tools}", cwd=ROOT, timeout_s=BUILD_S)


async def call(client: Client, *arguments: str, **environ: str) -> dict[str, Any]:
    """Runs a built client and returns what it printed.

    Raises:
        ClientFailed: it did not come to its end.
    """
    out = await _run(*client.command, *arguments, cwd=CLIENTS / client.language, timeout_s=CALL_S, environ=environ)
    return dict(json.loads(out))


async def _run(*command: str, cwd: Path, timeout_s: float, environ: Mapping[str, str] = MappingProxyType({})) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | dict(environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # a build is many processes
            await process.wait()
    if process.returncode != 0:
        raise ClientFailed(f"{' '.join(command)}\n{(out + said).decode()}")
    return out.decode()
