"""Whose leaving stops a run, and whose does not."""

import asyncio

import pytest

from myriad.memory.v1 import memory_pb2
from myriad.orchestrator.v1 import run_pb2
from services.kit.amounts import NO_AMOUNTS, Amounts
from services.kit.call import Call, Principal, enter
from services.kit.errors import StoreUnavailable
from services.kit.hints import RunHint
from services.orchestrator.budgets import REMAINING
from services.orchestrator.servicer import OrchestratorServicer
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds

ENDLESS = ["on ", 60.0]


@pytest.fixture
async def b():
    async with bench() as made:
        made.model.scripts = [ENDLESS]
        made.servicer = OrchestratorServicer(made.runs, None, None, None)
        act_as(ALICE)
        yield made


async def speaking(stream):
    """The run's id once the model speaks."""
    async for event in stream:
        if event.WhichOneof("event") == "text_delta":
            return event.run_id


def turn(b, **fields):
    return b.servicer.RunTurn(run_pb2.RunTurnRequest(session_id=SESSION, input="hello", **fields), None)


async def state(b, run_id):
    run = (await b.servicer.GetRun(run_pb2.GetRunRequest(run_id=run_id), None)).run
    return run.state


async def test_the_last_client_that_leaves_stops_the_run(b):
    first, second = turn(b, request_id="r1"), turn(b, request_id="r1")
    run_id = await speaking(first)
    assert await speaking(second) == run_id
    await first.aclose()
    await asyncio.sleep(0.05)
    assert await state(b, run_id) == run_pb2.RUN_STATE_RUNNING
    await second.aclose()
    events = await asyncio.wait_for(b.events(run_id), 0.5)
    assert kinds(events)[-1] == "cancelled"


async def test_a_client_that_said_so_may_leave(b):
    stream = turn(b, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE)
    run_id = await speaking(stream)
    await stream.aclose()
    await asyncio.sleep(0.05)
    assert await state(b, run_id) == run_pb2.RUN_STATE_RUNNING


async def test_a_run_that_has_ended_says_in_the_metadata_what_remained(b):
    b.model.scripts = [["done"]]
    seen = []
    for b.store.granted in (NO_AMOUNTS, Amounts(tokens=1000)):
        run_id = await b.begin()
        await b.events(run_id)
        call = Call("/test", {}, None, "inproc", principal=ALICE)
        enter(call)
        run = (await b.servicer.GetRun(run_pb2.GetRunRequest(run_id=run_id), None)).run
        seen.append(call.reply_metadata.get(REMAINING))
    assert (seen, run.usage.remaining.tokens) == ([None, '{"tokens":"985"}'], 985)


async def test_an_error_of_ours_stops_no_run(b):
    run_id = await speaking(turn(b, request_id="r1", on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE))

    async def away(*_args):
        raise StoreUnavailable("the store does not answer")

    elsewhere = b.another()
    read, b.store.read = b.store.read, away
    servicer = OrchestratorServicer(elsewhere, None, None, None)
    with pytest.raises(StoreUnavailable):
        async for _ in servicer.RunTurn(
            run_pb2.RunTurnRequest(session_id=SESSION, input="hello", request_id="r1"), None
        ):
            pass
    b.store.read = read
    await asyncio.sleep(0.05)
    assert await state(b, run_id) == run_pb2.RUN_STATE_RUNNING


async def test_watching_neither_keeps_a_run_nor_ends_it(b):
    run_id = await speaking(turn(b, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE))
    watch = b.servicer.WatchRun(run_pb2.WatchRunRequest(run_id=run_id), None)
    await speaking(watch)
    await watch.aclose()
    assert await state(b, run_id) == run_pb2.RUN_STATE_RUNNING
    await b.servicer.CancelRun(run_pb2.CancelRunRequest(run_id=run_id), None)
    assert kinds(await asyncio.wait_for(b.events(run_id), 0.5))[-1] == "cancelled"


class Directory:
    """Memory's side: how many runs the session has."""

    def __init__(self, store):
        self._store = store

    async def get_session(self, request):
        session = self._store._session(ALICE, request.session_id)
        return memory_pb2.GetSessionResponse(session=memory_pb2.Session(run_count=len(session.runs)))


async def work(b, worker, classes=("SIMPLE",)):
    """A worker takes what is due."""
    for claimed in await b.queue.claim(classes, 100, 0.5):
        hint = RunHint.read(claimed.item.body)
        who = Principal(hint.tenant, hint.user)
        act_as(who)
        await b.queue.done(claimed)
        await (await worker.take(who, hint.session_id, hint.run))


async def create(b, **fields):
    return (await b.servicer.CreateRun(run_pb2.CreateRunRequest(session_id=SESSION, input="hello", **fields), None)).run


async def test_a_run_created_for_the_workers_goes_on_though_nobody_watches(b):
    b.model.scripts = [["all ", 0.05, "of it"]]
    run = await create(b, request_id="r1")
    assert (run.run_id, run.state) == (f"{SESSION}.1", run_pb2.RUN_STATE_QUEUED)
    assert (await create(b, request_id="r1")).run_id == run.run_id
    worker = b.another(classes=("SIMPLE",))
    await work(b, worker)
    events = await asyncio.wait_for(b.events(run.run_id), 2)
    assert events[-1].completed.answer == "all of it"
    assert (await create(b, request_id="r1")).state == run_pb2.RUN_STATE_COMPLETED


async def test_the_runs_of_a_session_are_listed_in_pages_the_newest_first(b):
    b.model.scripts = [["hello"]]
    b.servicer = OrchestratorServicer(b.runs, Directory(b.store), None, None)
    for _ in range(5):
        await b.turn()
    b.store._run(ALICE, f"{SESSION}.4").entries.clear()  # its log has expired
    pages, token = [], ""
    while True:
        request = run_pb2.ListRunsRequest(session_id=SESSION, page_size=2, page_token=token)
        reply = await b.servicer.ListRuns(request, None)
        pages.append([run.run_id.rpartition(".")[2] for run in reply.runs])
        token = reply.next_page_token
        if not token:
            break
    assert pages == [["5"], ["3", "2"], ["1"]]


@pytest.mark.parametrize("token", ["0", "6", "999999999"])
async def test_a_page_beyond_the_runs_is_the_first_or_empty(b, token):
    b.model.scripts = [["hello"]]
    b.servicer = OrchestratorServicer(b.runs, Directory(b.store), None, None)
    await b.turn()
    reply = await b.servicer.ListRuns(run_pb2.ListRunsRequest(session_id=SESSION, page_token=token), None)
    assert len(reply.runs) == (token != "0")
    assert reply.next_page_token == ""


async def test_the_runs_of_a_batch_are_accepted_in_its_order(b):
    accept, pauses = b.runs.accept, iter((0.03, 0.02, 0.01, 0.0))

    async def slower(*arguments):
        await asyncio.sleep(next(pauses))
        return await accept(*arguments)

    b.runs.accept = slower
    items = [run_pb2.CreateRunRequest(session_id=SESSION, input=str(n)) for n in range(4)]
    results = (await b.servicer.CreateRuns(run_pb2.CreateRunsRequest(requests=items), None)).results
    assert [result.run.run_id for result in results] == [f"{SESSION}.{n}" for n in range(1, 5)]
