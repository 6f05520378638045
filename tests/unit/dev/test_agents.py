"""Applying an agent: what is called, in which order, and what is remembered of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from myriad.common.v1 import agent_pb2
from myriad.memory.v1 import memory_pb2
from myriad.retrieval.v1 import retrieval_pb2
from services.dev import agents
from services.dev.agentfile import AgentSource
from services.dev.agents import Target, TrainingFailed, WouldPrune
from services.dev.state import Folder
from services.kit.call import Principal
from services.kit.errors import AgentNotFound, VectorIndexUnavailable


class Mesh:
    """Memory and retrieval: keeps what they are told."""

    def __init__(self) -> None:
        self.channel = SimpleNamespace(unary_unary=lambda *_args, **_kw: None, unary_stream=lambda *_args, **_kw: None)
        self.told: list[str] = []
        self.documents: dict[str, str] = {}
        self.deleted: list[tuple[str, list[str]]] = []
        self.revision = 0
        self.broken = False

    async def unary(self, _method: object, request: Any, *, timeout: float) -> Any:
        self.told.append(type(request).__name__)
        if self.broken and isinstance(request, retrieval_pb2.UpsertDocumentsRequest):
            raise VectorIndexUnavailable("gone")
        if isinstance(request, retrieval_pb2.UpsertDocumentsRequest):
            assert len(request.documents) <= 100
            self.documents |= {document.document_id: document.text for document in request.documents}
        elif isinstance(request, retrieval_pb2.DeleteDocumentsRequest):
            self.deleted.append((request.collection, list(request.document_ids)))
            for document_id in request.document_ids:
                del self.documents[document_id]
        elif isinstance(request, memory_pb2.PutAgentRequest):
            self.revision += 1
        elif isinstance(request, memory_pb2.GetAgentRequest) and not self.revision:
            raise AgentNotFound("no such agent")
        return SimpleNamespace(agent=agent_pb2.Agent(name="helper", revision=self.revision))


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    made = Mesh()

    @asynccontextmanager
    async def clients(_target: Target) -> AsyncIterator[tuple[Mesh, Mesh]]:
        yield made, made

    async def train(_source: AgentSource, _target: Target, _patience_s: float = 0.0) -> list[str]:
        made.told.append("train")
        return ["learned"]

    monkeypatch.setattr(agents, "_clients", clients)
    monkeypatch.setattr(agents, "_train", train)
    return made


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target({"memory": "", "retrieval": "", "triton": "127.0.0.1:1"}, Folder(tmp_path), Principal("dev", "dev"))


def source(*names: str, persona: str = "You help.") -> AgentSource:
    agent = agent_pb2.Agent(name="helper", persona=persona, intents=[agent_pb2.Intent(name="greet")])
    agent.knowledge.collections.append("help")
    documents = tuple(retrieval_pb2.Document(document_id=name, text=name) for name in names)
    return AgentSource(Path("agent.yaml"), agent, documents)


async def apply(files: AgentSource, target: Target) -> None:
    await agents.apply(files, target, lambda _line: None)


async def test_agent_comes_last_so_that_it_never_answers_without_its_documents_and_intents(
    mesh: Mesh, target: Target
) -> None:
    await apply(source("a"), target)
    assert mesh.told == ["CreateCollectionRequest", "UpsertDocumentsRequest", "train", "PutAgentRequest"]


async def test_intents_are_learned_before_unless_they_were_when_the_agent_was_applied_last(
    mesh: Mesh, target: Target
) -> None:
    assert await agents.learn(source("a"), target) == ["learned"]
    await apply(source("a"), target)
    mesh.told.clear()
    assert await agents.learn(source("a"), target) == []
    assert mesh.told == []
    assert await agents.learn(source("a", persona="You do not."), target) == ["learned"]


@pytest.mark.parametrize(("before", "again"), [(["learned before"], False), ([], True)], ids=["all", "nothing"])
async def test_what_was_learned_before_is_not_learned_again(
    mesh: Mesh, target: Target, before: list[str], again: bool
) -> None:
    async def learning() -> list[str]:
        return before

    said: list[str] = []
    await agents.apply(source("a"), target, said.append, learning=learning())
    assert ("train" in mesh.told) is again
    assert ("learned" if again else "learned before") in said


async def test_many_documents_go_in_batches(mesh: Mesh, target: Target) -> None:
    await apply(source(*(f"d{number}" for number in range(40))), target)
    assert mesh.told.count("UpsertDocumentsRequest") == 3
    assert len(mesh.documents) == 40


async def test_document_that_is_gone_from_the_folder_is_deleted(mesh: Mesh, target: Target) -> None:
    await apply(source("a", "b"), target)
    await apply(source("b", "c"), target)
    assert set(mesh.documents) == {"b", "c"}


async def test_last_document_that_is_gone_is_deleted(mesh: Mesh, target: Target) -> None:
    await apply(source("a"), target)
    await apply(source(), target)
    assert mesh.documents == {}


async def test_documents_are_removed_after_the_agent_that_no_longer_reads_them_is_there_and_named(
    mesh: Mesh, target: Target
) -> None:
    await apply(source("a", "b"), target)
    said: list[str] = []
    await agents.apply(source("b"), target, said.append)
    assert mesh.told[-2:] == ["PutAgentRequest", "DeleteDocumentsRequest"]
    assert "removing 1 documents from help: a" in said


async def test_a_file_alone_removes_no_documents_unless_told_to(mesh: Mesh, target: Target) -> None:
    await apply(source("a", "b"), target)
    alone = replace(source(), alone=True)
    told = list(mesh.told)
    with pytest.raises(WouldPrune, match=r"2 of helper would go: a, b\. .*--prune"):
        await apply(alone, target)
    assert mesh.told == told
    await agents.apply(alone, target, lambda _line: None, prune=True)
    assert mesh.documents == {}


async def test_a_file_alone_changes_an_agent_that_never_had_documents(mesh: Mesh, target: Target) -> None:
    for persona in ("You help.", "You do not."):
        await apply(replace(source(persona=persona), alone=True), target)
    assert mesh.revision == 2


async def test_documents_leave_a_collection_that_the_agent_no_longer_reads(mesh: Mesh, target: Target) -> None:
    await apply(source("a", "b"), target)
    moved = source("b")
    moved.agent.knowledge.collections[0] = "elsewhere"
    await apply(moved, target)
    assert mesh.deleted == [("help", ["a", "b"])]


async def test_applied_agent_is_known_as_such_until_something_changes(mesh: Mesh, target: Target) -> None:
    files = source("a")
    assert not await agents.is_applied(files, target)
    await apply(files, target)
    assert await agents.is_applied(files, target)
    assert not await agents.is_applied(source("a", persona="You do not."), target)
    assert not await agents.is_applied(source("a", "b"), target)
    mesh.revision += 1  # somebody else changed it
    assert not await agents.is_applied(files, target)


async def test_data_that_were_removed_are_noticed(mesh: Mesh, target: Target) -> None:
    await apply(source("a"), target)
    mesh.revision = 0
    assert not await agents.is_applied(source("a"), target)


async def test_failure_leaves_the_agent_to_be_applied_again(mesh: Mesh, target: Target) -> None:
    mesh.broken = True
    with pytest.raises(VectorIndexUnavailable):
        await apply(source("a"), target)
    assert "PutAgentRequest" not in mesh.told
    assert not await agents.is_applied(source("a"), target)


async def test_trainer_that_fails_says_why(target: Target, tmp_path: Path) -> None:
    broken = AgentSource(tmp_path / "absent.yaml", source().agent, ())
    with pytest.raises(TrainingFailed, match=r"absent\.yaml"):
        await agents._train(broken, target)


async def test_intents_are_learned_while_the_documents_are_written(
    mesh: Mesh, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, really = asyncio.Event(), mesh.unary

    async def train(_source: AgentSource, _target: Target) -> list[str]:
        begun.set()
        return []

    async def write(method: object, request: Any, *, timeout: float) -> Any:
        if isinstance(request, retrieval_pb2.UpsertDocumentsRequest):
            await asyncio.wait_for(begun.wait(), 5)
        return await really(method, request, timeout=timeout)

    monkeypatch.setattr(agents, "_train", train)
    monkeypatch.setattr(mesh, "unary", write)
    await apply(source("a"), target)
    assert mesh.told[-1] == "PutAgentRequest"


async def test_documents_that_cannot_be_written_end_the_learning(
    mesh: Mesh, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    async def train(_source: AgentSource, _target: Target) -> list[str]:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)
        return []

    monkeypatch.setattr(agents, "_train", train)
    mesh.broken = True
    with pytest.raises(VectorIndexUnavailable):
        await apply(source("a"), target)
    assert ended == [True]
