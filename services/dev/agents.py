"""`myriad agents apply`: makes an agent out of its files: the agent in memory, its documents in retrieval, its intents.

It speaks to the services themselves, as an operator's tool inside the mesh does; no such method has a route at Envoy.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2, memory_pb2_grpc
from myriad.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from services.dev import spawn
from services.dev.agentfile import AgentSource
from services.dev.command import Failed
from services.dev.environment import grpc_target
from services.dev.state import Folder
from services.kit.call import Principal, work_as
from services.kit.clients import Client, Network
from services.kit.errors import CollectionNotFound, ServiceError
from services.kit.tls import Certificates

BATCH = 16
"""Documents written by one call."""

NAMED = 5
"""How many documents a message names."""

WRITE_S = 60.0
"""Longest time of a call that writes documents: the first ones wait for the model to be warm."""

TRAIN_S = 300.0
"""Longest time the training of an agent's intents may take."""

TRITON_S = 180.0
"""How long the trainer waits for Triton, which may start beside it."""

APPLY_S = 900.0
"""Longest time of all of it."""

Say = Callable[[str], None]


class TrainingFailed(Failed):
    """The intents could not be learned. The message is what the trainer said last."""


@dataclass(frozen=True)
class Target:
    """Where an agent goes."""

    addresses: Mapping[str, str]
    """host:port of `memory`, `retrieval` and `triton`, and of what more replicas there are."""

    folder: Folder
    """Of the stack: nlu's models, what was applied, and its keys."""

    principal: Principal

    auth: bool = False
    """The services ask for the mesh's token."""

    tls: bool = False
    """The services speak TLS."""

    def network(self) -> Network:
        """What reaches the services."""
        keys = self.folder.keys
        token = (keys / "mesh.token").read_text().strip() if self.auth else None
        if not self.tls:
            return Network(token)
        return Network(token, Certificates(keys / "operator.pem", keys / "operator.key", keys / "ca.pem"))


@dataclass(frozen=True)
class Applied:
    """What was applied last. The defaults: nothing."""

    digest: str = ""
    revision: int = 0
    collection: str = ""
    """Where its documents went."""

    documents: frozenset[str] = frozenset()
    """Their ids."""


class WouldPrune(Failed):
    """A file alone, without the documents that were applied before: they would be removed. The message names them."""


async def learn(source: AgentSource, target: Target) -> list[str]:
    """Learns an agent's intents before it is applied, and before Triton is there. Returns what the trainer says.

    Empty: there is nothing to learn, or it was learned when the agent was applied last.

    Raises:
        TrainingFailed: they could not be learned.
    """
    if not source.agent.intents or _read(_record(target, source.agent.name)).digest == digest(source):
        return []
    return await _train(source, target, TRITON_S)


async def apply(
    source: AgentSource,
    target: Target,
    say: Say,
    *,
    prune: bool = False,
    learning: Awaitable[list[str]] | None = None,
) -> agent_pb2.Agent:
    """Makes the agent what its files say. Applying the same files again changes nothing.

    What the agent needs is there before it, and what it no longer needs is removed after it: at no time does it answer
    without its documents or intents.

    Args:
        source: The agent's files.
        target: Where it goes.
        say: Told of each step, and of the documents that are removed.
        prune: A file alone may remove the documents that were applied with a folder.
        learning: `learn`, begun before. None: the intents are learned now.

    Returns:
        The agent with its revision.

    Raises:
        ServiceError: a service refused, or does not answer.
        TrainingFailed: the intents could not be learned.
        WouldPrune: documents would be removed that nobody asked to remove.
    """
    documents = {document.document_id for document in source.documents}
    collection = next(iter(source.agent.knowledge.collections), "")
    record = _record(target, source.agent.name)
    before = _read(record)
    gone = sorted(before.documents - (documents if before.collection == collection else set()))
    if gone and source.alone and not prune:
        raise WouldPrune(
            f"{source.file}: this file alone has no documents, and {len(gone)} of {source.agent.name} would go: "
            f"{_some(gone)}. Apply the folder that has them, or remove them with --prune."
        )
    async with _clients(target) as (memory, retrieval):
        await _together(_write_documents(retrieval, source, say), _write_intents(source, target, say, learning))
        stub = memory_pb2_grpc.MemoryServiceStub(memory.channel)
        put = memory_pb2.PutAgentRequest(agent=source.agent)
        agent = (await memory.unary(stub.PutAgent, put, timeout=WRITE_S)).agent
        if gone:
            say(f"removing {len(gone)} documents from {before.collection}: {_some(gone)}")
            await _delete_documents(retrieval, before.collection, gone)
    _write(record, Applied(digest(source), agent.revision, collection, frozenset(documents)))
    say(f"{agent.name}, revision {agent.revision}: {len(agent.tools)} tools, {len(documents)} documents")
    return agent


async def is_applied(source: AgentSource, target: Target) -> bool:
    """Whether the stack holds the agent as its files are now."""
    before = _read(_record(target, source.agent.name))
    if before.digest != digest(source):
        return False
    async with _clients(target) as (memory, _):
        stub = memory_pb2_grpc.MemoryServiceStub(memory.channel)
        latest = memory_pb2.GetAgentRequest(agent=agent_pb2.AgentRef(name=source.agent.name))
        try:
            agent = (await memory.unary(stub.GetAgent, latest, timeout=WRITE_S)).agent
        except ServiceError:
            return False
    return agent.revision == before.revision


def digest(source: AgentSource) -> str:
    """SHA-256 of an agent and its documents."""
    whole = hashlib.sha256()
    for message in (source.agent, *source.documents):
        content = message.SerializeToString(deterministic=True)
        whole.update(len(content).to_bytes(8) + content)
    return whole.hexdigest()


def _some(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


async def _write_documents(retrieval: Client, source: AgentSource, say: Say) -> None:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(retrieval.channel)
    names = source.agent.knowledge.collections
    for name in names:
        collection = retrieval_pb2.Collection(name=name, scope=retrieval_pb2.SCOPE_TENANT)
        creating = retrieval_pb2.CreateCollectionRequest(collection=collection)
        await retrieval.unary(stub.CreateCollection, creating, timeout=WRITE_S)
    for start in range(0, len(source.documents), BATCH):
        batch = source.documents[start : start + BATCH]
        say(f"documents {start + 1} to {start + len(batch)} of {len(source.documents)}")
        writing = retrieval_pb2.UpsertDocumentsRequest(collection=names[0], documents=batch)
        await retrieval.unary(stub.UpsertDocuments, writing, timeout=WRITE_S)


async def _delete_documents(retrieval: Client, collection: str, gone: list[str]) -> None:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(retrieval.channel)
    for start in range(0, len(gone), BATCH):
        batch = gone[start : start + BATCH]
        deleting = retrieval_pb2.DeleteDocumentsRequest(collection=collection, document_ids=batch)
        with contextlib.suppress(CollectionNotFound):
            await retrieval.unary(stub.DeleteDocuments, deleting, timeout=WRITE_S)


async def _together(*works: Coroutine[None, None, None]) -> None:
    """Does all of them at the same time. The first that fails ends the others, and is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _write_intents(source: AgentSource, target: Target, say: Say, learning: Awaitable[list[str]] | None) -> None:
    """Learns the intents, if there are any and `learning` has not."""
    if source.agent.intents:
        say(f"learning {len(source.agent.intents)} intents")
        for line in (await learning if learning else []) or await _train(source, target):
            say(line)


async def _train(source: AgentSource, target: Target, patience_s: float = 0.0) -> list[str]:
    """Learns the intents; Triton may take so long to answer. Returns what the trainer says of its work."""
    # It ends with us, however we end: it may wait long.
    command = [sys.executable, "-I", "-S", spawn.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "--"]
    command += [sys.executable, "-m", "services.nlu.train", "--agent-file", str(source.file)]
    command += ["--tenant", target.principal.tenant, "--models-dir", str(target.folder.models)]
    command += ["--triton", target.addresses["triton"], "--patience", f"{patience_s:g}"]
    trainer = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(TRAIN_S):
            output, _ = await trainer.communicate()
    except TimeoutError:
        raise TrainingFailed(f"learning the intents took longer than {TRAIN_S:.0f} s") from None
    finally:
        if trainer.returncode is None:
            trainer.kill()
            await trainer.wait()
    lines = output.decode(errors="replace").strip().splitlines()
    if trainer.returncode != 0:
        raise TrainingFailed("\n".join(lines[-15:]) or f"exit status {trainer.returncode}")
    return lines


@asynccontextmanager
async def _clients(target: Target) -> AsyncIterator[tuple[Client, Client]]:
    """Clients of memory and retrieval, calling as the target's principal."""
    work_as(target.principal, name="myriad agents apply", timeout=APPLY_S)
    network = target.network()
    try:
        yield (
            network.client("memory", grpc_target(target.addresses, "memory")),
            network.client("retrieval", grpc_target(target.addresses, "retrieval")),
        )
    finally:
        await network.close()


def _record(target: Target, agent: str) -> Path:
    """What was applied last: which documents to delete, and whether anything changed."""
    tenant = hashlib.sha256(target.principal.tenant.encode()).hexdigest()[:16]
    return target.folder.data / "agents" / tenant / f"{agent}.json"


def _read(record: Path) -> Applied:
    try:
        known = json.loads(record.read_text())
        return Applied(**{**known, "documents": frozenset(known["documents"])})
    except (OSError, ValueError, TypeError, KeyError):
        return Applied()


def _write(record: Path, applied: Applied) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({**asdict(applied), "documents": sorted(applied.documents)}) + "\n")
