"""Nobody reads, changes or learns of what is not theirs: every RPC of every service, by its contract.

The stores are real: a Redis Cluster and a Milvus. A new RPC without a row in tests/support/rows/ fails by name.
"""

import re
import statistics
import time
from dataclasses import fields, replace
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor

from myriad.memory.v1 import memory_pb2 as memory
from myriad.orchestrator.v1 import run_pb2
from myriad.retrieval.v1 import retrieval_pb2 as retrieval
from services.kit.call import Principal
from services.kit.keys import encode
from tests.security.trips import trips_of
from tests.security.world import Refusal, World, paying, somebody
from tests.support.requests import ROWS, Answer, Names, Owner, an_agent, method_of, methods, path, service_of

METHODS = methods()
IDS = [f"{service_of(method)}.{method.name}" for method in METHODS]
GROSS = 4.0
"""Times as long as for what is absent, that an answer about what is another's must not take."""


def without_names(answer: list[Any] | Refusal, names: Names) -> str:
    """An answer as text, names and times in it replaced: what is left tells whether the two differ otherwise."""
    text = repr(answer) if isinstance(answer, Refusal) else "".join(str(each) for each in answer)
    values = {str(getattr(names, each.name)): each.name for each in fields(names) if "token" not in each.name}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, f"<{values[value]}>") if value else text
    return re.sub(r"\s*(seconds|nanos): \d+", "", text)


async def holdings(world: World, owner: Principal, names: Names) -> dict[str, Any]:
    """All that is kept for a tenant."""
    keys = await world.keys()
    tags = (f"myriad:{{{encode(owner.tenant)}}}:", f"myriad:{{{encode(owner.tenant)}/")
    kept: dict[str, Any] = {key: value for key, value in keys.items() if key.startswith(tags)}
    asked = retrieval.GetDocumentRequest(collection=names.collection, document_id=names.document)
    kept["document"] = await world.told(owner, "retrieval.GetDocument", asked)
    kept["collections"] = await world.told(owner, "retrieval.ListCollections", retrieval.ListCollectionsRequest())
    return kept


def test_every_rpc_has_a_row() -> None:
    """And no row is of an RPC that is gone."""
    paths = {path(method) for method in METHODS}
    missing, gone = sorted(paths - ROWS.keys()), sorted(ROWS.keys() - paths)
    assert not missing, f"tests/support/rows/ has no row for {', '.join(missing)}"
    assert not gone, f"tests/support/rows/ has rows for what is gone: {', '.join(gone)}"


@pytest.mark.parametrize("method", METHODS, ids=IDS)
async def test_what_is_anothers_is_as_what_is_absent(world: World, method: MethodDescriptor) -> None:
    row, owner = ROWS[path(method)], somebody()
    names, absent = await world.furnish(owner), Names.absent()
    before = await holdings(world, owner, names)
    strangers = [somebody(user="ann")]
    if row.owner is Owner.USER:
        strangers.append(somebody(owner.tenant, user="bob"))
    for stranger in strangers:
        with trips_of(stranger) as for_theirs:
            about_theirs = await world.ask(stranger, method, row.build(names))
        with trips_of(stranger) as for_nothing:
            about_nothing = await world.ask(stranger, method, row.build(absent))
        assert for_theirs == for_nothing  # so they take the same time
        assert without_names(about_theirs, names).splitlines() == without_names(about_nothing, absent).splitlines()
        if row.answer is Answer.NOT_FOUND:
            assert isinstance(about_theirs, Refusal)
            assert about_theirs.code == "NOT_FOUND", about_theirs
            assert for_theirs  # the control
        else:
            assert not isinstance(about_theirs, Refusal), about_theirs
            assert row.answer is Answer.THEIR_OWN or [str(reply) for reply in about_theirs] == [""]
    assert await holdings(world, owner, names) == before
    # The control: the owner finds it. (That a session is busy, or a made-up token none, is not the same as absent.)
    found = await world.ask(owner, method, row.build(names))
    if isinstance(found, Refusal):
        assert found.code in {"ABORTED", "PERMISSION_DENIED"}, found
    else:
        assert row.answer is not Answer.LEFT_OUT or [str(reply) for reply in found] != [""]


async def test_a_run_at_work_is_seen_by_nobody_else(world: World) -> None:
    """While it runs it is shown from memory, not from the store."""
    owner = somebody()
    names = await world.furnish(owner)
    session = await world.told(owner, "memory.CreateSession", memory.CreateSessionRequest(agent=names.agent))
    asked = run_pb2.RunTurnRequest(
        session_id=session.session.session_id,
        input='#sim {"forever": true, "delay_ms": 20}',
        on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE,
    )
    (run_turn,) = (each for each in METHODS if each.name == "RunTurn")
    replies = await world.ask(owner, run_turn, asked, most=2)
    assert isinstance(replies, list)
    run = replace(names, run=replies[-1].run_id)
    try:
        for name in ("WatchRun", "GetRun", "CancelRun"):
            (method,) = (each for each in METHODS if each.name == name)
            for stranger in (somebody(), somebody(owner.tenant, user="bob")):
                refused = await world.ask(stranger, method, ROWS[path(method)].build(run))
                assert isinstance(refused, Refusal)
                assert refused.reason == "RUN_NOT_FOUND"
        state = await world.told(owner, "orchestrator.GetRun", run_pb2.GetRunRequest(run_id=run.run))
        assert state.run.state == run_pb2.RUN_STATE_RUNNING
    finally:
        await world.told(owner, "orchestrator.CancelRun", run_pb2.CancelRunRequest(run_id=run.run))


async def test_a_run_that_waits_is_answered_by_its_user_and_by_approvers_of_its_tenant_alone(world: World) -> None:
    """With the token in hand, that is: a stranger finds no such run, an approver of another tenant neither."""
    owner = somebody()
    event = await paying(world, owner)
    token = event.approval_required.approval_token
    answer = run_pb2.RespondToRunRequest(run_id=event.run_id, approval_token=token, approve=run_pb2.Approve())
    respond = method_of("orchestrator.RespondToRun")
    absent = run_pb2.RespondToRunRequest()
    absent.CopyFrom(answer)
    absent.run_id = Names.absent().run
    for stranger in (somebody(), somebody(roles=["approver"]), somebody(owner.tenant, user="bob", roles=["operator"])):
        refused = await world.ask(stranger, respond, answer)
        assert refused == await world.ask(stranger, respond, absent)
        assert isinstance(refused, Refusal)
        assert refused.reason == "RUN_NOT_FOUND"
    waits = await world.told(owner, "orchestrator.GetRun", run_pb2.GetRunRequest(run_id=event.run_id))
    assert waits.run.state == run_pb2.RUN_STATE_WAITING
    approver = somebody(owner.tenant, user="eve", roles=["approver"])
    await world.told(approver, "orchestrator.RespondToRun", answer)
    last = await world.told(owner, "orchestrator.WatchRun", run_pb2.WatchRunRequest(run_id=event.run_id))
    assert last.completed.answer == "paid"


async def test_a_page_token_of_another_shows_nothing_of_theirs(world: World) -> None:
    owner, stranger = somebody(), somebody()
    names = await world.furnish(owner)
    for _ in range(3):
        await world.told(owner, "memory.CreateSession", memory.CreateSessionRequest(agent=names.agent))
    page = await world.told(owner, "memory.ListSessions", memory.ListSessionsRequest(page_size=1))
    assert page.next_page_token
    asked = memory.ListSessionsRequest(page_token=page.next_page_token)
    for other in (stranger, somebody(owner.tenant, user="bob")):
        assert str(await world.told(other, "memory.ListSessions", asked)) == ""
    assert len((await world.told(owner, "memory.ListSessions", asked)).sessions) == 3


async def test_a_result_kept_for_one_caller_is_replayed_to_no_other(world: World) -> None:
    """The same run, tool and idempotency key, of another tenant and of another user."""
    owner = somebody()
    names = await world.furnish(owner)
    execute = path(method_of("toolexec.Execute"))
    assert not (await world.told(owner, "toolexec.Execute", ROWS[execute].build(names))).replayed
    for other in (somebody(), somebody(owner.tenant, user="bob")):
        await world.told(other, "memory.PutAgent", ROWS[path(method_of("memory.PutAgent"))].build(names))
        assert not (await world.told(other, "toolexec.Execute", ROWS[execute].build(names))).replayed
    assert (await world.told(owner, "toolexec.Execute", ROWS[execute].build(names))).replayed


async def test_an_agent_kept_for_one_tenant_is_told_to_no_other(world: World) -> None:
    """Services keep the revisions of agents that they have read, and a revision never changes."""
    owner, stranger, namesake = somebody(), somebody(), somebody()
    names = await world.furnish(owner)
    theirs = an_agent(names.agent)
    theirs.tools[0].name = "another"
    await world.told(namesake, "memory.PutAgent", memory.PutAgentRequest(agent=theirs))
    for method in map(method_of, ("toolexec.ListTools", "toolexec.Execute", "nlu.Analyze")):
        request = ROWS[path(method)].build(names)
        request.agent.revision = 1  # type: ignore[attr-defined]
        assert not isinstance(await world.ask(owner, method, request), Refusal)
        refused = await world.ask(stranger, method, request)
        assert isinstance(refused, Refusal)
        assert refused.reason == "AGENT_NOT_FOUND"
        if method.name == "ListTools":
            found = await world.told(namesake, "toolexec.ListTools", request)
            assert [tool.name for tool in found.tools] == ["another", "calculate_slowly"]
        if method.name == "Execute":
            refused = await world.ask(namesake, method, request)
            assert isinstance(refused, Refusal)
            assert refused.reason == "TOOL_NOT_FOUND"


async def test_a_request_id_of_one_caller_means_nothing_to_another(world: World) -> None:
    owner, neighbour = somebody(), somebody()
    names = await world.furnish(owner)
    bob = Principal(owner.tenant, "bob")
    await world.told(neighbour, "memory.PutAgent", ROWS[path(method_of("memory.PutAgent"))].build(names))
    asked = memory.CreateSessionRequest(agent=names.agent, request_id="the-same")
    made = [
        (await world.told(each, "memory.CreateSession", asked)).session.session_id for each in (owner, neighbour, bob)
    ]
    assert len(set(made)) == 3
    assert (await world.told(owner, "memory.CreateSession", asked)).session.session_id == made[0]


async def test_documents_of_a_collection_with_scope_user_are_their_writers_alone(world: World) -> None:
    owner = somebody()
    bob = Principal(owner.tenant, "bob")
    notes = retrieval.Collection(name="notes", scope=retrieval.SCOPE_USER)
    await world.told(owner, "retrieval.CreateCollection", retrieval.CreateCollectionRequest(collection=notes))
    mine = retrieval.Document(document_id="d", title="T", text="A note about refunds.", metadata={"kind": "note"})
    write = retrieval.UpsertDocumentsRequest(collection="notes", documents=[mine])
    await world.told(owner, "retrieval.UpsertDocuments", write)
    read = retrieval.GetDocumentRequest(collection="notes", document_id="d")
    (get,) = (each for each in METHODS if each.name == "GetDocument")
    refused = await world.ask(bob, get, read)
    assert isinstance(refused, Refusal)
    assert refused.reason == "DOCUMENT_NOT_FOUND"
    await world.told(
        bob, "retrieval.DeleteDocuments", retrieval.DeleteDocumentsRequest(collection="notes", document_ids=["d"])
    )
    for mode in (retrieval.SEARCH_MODE_DENSE, retrieval.SEARCH_MODE_SPARSE, retrieval.SEARCH_MODE_HYBRID):
        asked = retrieval.SearchRequest(collections=["notes"], query="refunds", mode=mode)
        assert not (await world.told(bob, "retrieval.Search", asked)).hits
        assert len((await world.told(owner, "retrieval.Search", asked)).hits) == 1
    assert (await world.told(owner, "retrieval.GetDocument", read)).document.text == mine.text


@pytest.mark.parametrize(
    "name",
    [
        "memory.GetSession",
        "memory.GetAgent",
        "orchestrator.GetRun",
        "orchestrator.CancelRun",
        "orchestrator.RespondToRun",
        "orchestrator.WatchRun",
        "retrieval.GetDocument",
    ],
)
@pytest.mark.parametrize(("pairs", "most"), [(40, GROSS), pytest.param(2000, 1.05, marks=pytest.mark.chaos)])
async def test_the_time_of_an_answer_tells_little(world: World, name: str, pairs: int, most: float) -> None:
    """By the median of many, asked in turns; of few, and on a busy machine, grossly."""
    stranger, names, absent = somebody(), await world.furnish(somebody()), Names.absent()
    method = method_of(name)
    seconds: dict[str, list[float]] = {"theirs": [], "nothing": []}
    for _ in range(pairs):
        for kind, about in (("theirs", names), ("nothing", absent)):
            began = time.perf_counter()
            await world.ask(stranger, method, ROWS[path(method)].build(about))
            seconds[kind].append(time.perf_counter() - began)
    ratio = statistics.median(seconds["theirs"]) / statistics.median(seconds["nothing"])
    assert 1 / most < ratio < most, f"{ratio:.2f} times as long"
