"""A process that serves, and for such a process a scripted service, told what to do by files where it runs.

File `ready`: its check passes. File `answer`: GetRun answers. It writes `called` when GetRun is called, and into it
that it `collects` garbage, `drained` when it is told to take no new work, and `closed`: its closers that ran, in order.
"""

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_pb2
from services.kit import serve
from services.kit.app import App, Kit
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
_INHERITED = ("PATH", "HOME")

NO_STORE = {f"MYRIAD_{name}_REDIS_URL": "redis://127.0.0.1:1" for name in ("MEMORY", "ORCHESTRATOR", "TOOLEXEC")}
"""The default is where a stack of this machine may have one, which asks for a password."""


@dataclass
class Process:
    """A service of ours in a process of its own."""

    process: asyncio.subprocess.Process
    address: str
    metrics_url: str
    work: Path

    async def ended(self, at_most: float) -> int:
        """Exit status, once it has ended.

        Raises:
            TimeoutError: it has not within `at_most` seconds.
        """
        async with asyncio.timeout(at_most):
            return await self.process.wait()

    @property
    def probes(self) -> str:
        """Address of its probes, `host:port`."""
        return self.metrics_url.removeprefix("http://").partition("/")[0]

    @property
    def output(self) -> str:
        """What it wrote to standard output until now: the log."""
        return (self.work / "output").read_text()

    @property
    def complaint(self) -> str:
        """What it wrote to standard error until now."""
        return (self.work / "complaint").read_text()


@asynccontextmanager
async def running(module: str, work: Path, variables: Mapping[str, str], *arguments: str) -> AsyncIterator[Process]:
    """`python -m <module> <arguments>` on ports of its own; killed if still there at the end.

    Args:
        module: The module.
        work: Where it runs, and its output goes.
        variables: Its configuration, and it has no other. `MYRIAD_AUTH` is `insecure-dev` unless given.
        arguments: What follows the module.
    """
    port, metrics_port = free_port(), free_port()
    environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environ["PYTHONPATH"] = str(ROOT)
    environ |= {"MYRIAD_AUTH": "insecure-dev", "MYRIAD_PORT": str(port), "MYRIAD_METRICS_PORT": str(metrics_port)}
    environ |= variables
    with (work / "output").open("wb") as output, (work / "complaint").open("wb") as complaint:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, cwd=work, env=environ, stdout=output, stderr=complaint
        )
    try:
        yield Process(process, f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}/metrics", work)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass(frozen=True)
class Config:
    """What the scripted service is told. Variables: `MYRIAD_ORCHESTRATOR_<FIELD>`."""

    broken: bool = False
    """Whether it cannot be built."""


class _Scripted(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    async def GetRun(self, request: run_pb2.GetRunRequest, context: object) -> run_pb2.GetRunResponse:
        await asyncio.to_thread(Path("called").write_text, "collects" if gc.isenabled() else "")
        await appeared(Path("answer"))
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id))


async def appeared(path: Path) -> None:
    """Returns when the file is there."""
    while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.02)


async def build(config: Config, kit: Kit) -> App:
    """The scripted service, in the orchestrator's place."""
    if config.broken:
        raise ValueError("the scripted service is broken")

    async def check() -> None:
        if not await asyncio.to_thread(Path("ready").exists):
            raise OSError("not yet")

    add = orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server
    return App(
        name="orchestrator",
        add_to=lambda server: add(_Scripted(), server),
        checks={"file": check},
        drainers=[Path("drained").touch],
        closers=[partial(asyncio.to_thread, _note_closed, each) for each in ("opened first", "opened last")],
    )


def _note_closed(name: str) -> None:
    with Path("closed").open("a") as closed:
        closed.write(f"{name}\n")


if __name__ == "__main__":
    gc.disable()  # as the services do
    serve.main("orchestrator", Config, build)
