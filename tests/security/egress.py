"""A program that runs tools in a network namespace of its own and says what each of them connected to.

Standard input: a JSON object of `urls` (each the URL of a tool), `names` (host to its answers, one after another; the
last one stays) and `guard` (false: every address is allowed, as a control). Standard output: a JSON list, for each URL
the code it ended with, the SYNs that were seen, and the connections that the kernel counted.

The whole path is toolexec's: its servicer behind the chain of interceptors, its executor, its HTTP tools, its guard.
Only the resolver and the source of agents are the test's.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from unittest.mock import Mock

from myriad.common.v1 import agent_pb2
from myriad.toolexec.v1 import toolexec_pb2, toolexec_pb2_grpc
from services.kit.app import App, Kit
from services.kit.call import Principal, work_as
from services.kit.clients import INPROC
from services.kit.errors import ServiceError
from services.kit.telemetry import open_telemetry
from services.toolexec.adapters.clock import SystemClock
from services.toolexec.adapters.guard import is_public
from services.toolexec.adapters.http import HttpcoreCaller, anywhere
from services.toolexec.adapters.inmemory import InMemoryResultStore, InMemoryToolSource
from services.toolexec.config import Config
from services.toolexec.core.execution import Executor, Runners
from services.toolexec.core.gate import Gate
from services.toolexec.core.http_tool import HttpTools
from services.toolexec.core.schema import Schemas
from services.toolexec.domain import AgentTools, HttpCall, SideEffect, Tool
from services.toolexec.servicer import ToolExecServicer
from tests.support.netns import Attempts, NoNamespace, connects, enter

NO_NAMESPACE = 77
"""Exit status when the machine does not let it make one."""

OPERATORS_OWN = "http://10.9.8.7:8080"
"""The endpoint `crm` of the operator's configuration."""

_LISTENING = (22, 80, 443, 6379, 8080, 8443)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers any request: `/to/<hex>` is a redirect there, all else is 200."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ")[1]
        if path.startswith("/to/"):
            writer.write(f"HTTP/1.1 302 Found\r\nlocation: {bytes.fromhex(path[4:]).decode('latin-1')}\r\n".encode())
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n")
        writer.write(b"content-type: text/plain\r\ncontent-length: 7\r\nconnection: close\r\n\r\nreached")
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[None]:
    """A server on every address of the namespace."""
    servers = []
    for port in _LISTENING:
        both = socket.socket(socket.AF_INET6)
        both.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::", port))
        servers.append(await asyncio.start_server(answer, sock=both))
    yield
    for server in servers:
        server.close()


class Names:
    """A resolver of the test's: its names, and addresses however they are written, as the C library reads them."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._names = {name: list(answers) for name, answers in names.items()}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        answers = self._names.get(host)
        if answers is not None:
            return answers.pop(0) if len(answers) > 1 else answers[0]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [str(entry[4][0]) for entry in found]


def tool(url: str) -> Any:
    """A tool that GETs a URL: `crm:/path` beneath the operator's endpoint, else an address of an author's."""
    endpoint, path = ("crm", url.removeprefix("crm:")) if url.startswith("crm:") else ("", url)
    call = HttpCall("GET", endpoint, path, {}, 65_536, idempotency_key=False)
    made = Tool("get", "Gets.", None, SideEffect.READ, 3.0, frozenset(), call)
    return AgentTools("agent", 1, {"get": made})


async def run(urls: Sequence[str], names: Mapping[str, Sequence[Sequence[str]]], *, guard: bool) -> list[Any]:
    """Runs a tool for each URL."""
    config, clock, source = Config(endpoints={"crm": OPERATORS_OWN}), SystemClock(), InMemoryToolSource()
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller = HttpcoreCaller(Names(names), connect_timeout=1.0, allows=is_public if guard else anywhere, trust=trust)
    http = HttpTools(caller, config.endpoints, frozenset(int(port) for port in config.public_ports))
    store, gate = InMemoryResultStore(clock), Gate(config.max_running_per_tool, config.max_running)
    executor = Executor(source, Runners({}, http), store, Schemas(), gate, clock)
    servicer = ToolExecServicer(executor, Mock(), Mock())  # only Execute is called
    kit = Kit(open_telemetry("toolexec", "", 0.0), None)
    kit.registry(
        App("toolexec", lambda server: toolexec_pb2_grpc.add_ToolExecServiceServicer_to_server(servicer, server))
    )
    client = kit.network.client("toolexec", INPROC)
    stub = toolexec_pb2_grpc.ToolExecServiceStub(client.channel)
    request = toolexec_pb2.ExecuteRequest(
        agent=agent_pb2.AgentRef(name="agent"), tool="get", arguments_json="{}", run_id="s.1", idempotency_key="k"
    )
    work_as(Principal("acme", "ann"), name="test", timeout=120.0)
    attempts, results = Attempts(), []
    async with listening():
        for url in urls:
            source.put("acme", tool(url))
            before = connects()
            try:
                reply = await client.unary(stub.Execute, request, timeout=5.0)
                code = reply.result_json
            except ServiceError as error:
                code = error.code.value
            results.append({"code": code, "syns": attempts.take(), "connects": connects() - before})
        await caller.close()
    attempts.close()
    return results


def main() -> None:
    """Enters the namespace first: what runs in it may start threads."""
    given = json.load(sys.stdin)
    try:
        enter()
    except NoNamespace as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(NO_NAMESPACE)
    with contextlib.redirect_stdout(sys.stderr):  # logs
        found = asyncio.run(run(given["urls"], given["names"], guard=given["guard"]))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
