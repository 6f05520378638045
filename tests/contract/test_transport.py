"""One list of behaviours for a real socket and for the in-process channel: nothing else may differ."""

import asyncio

import grpc
import pytest

from myriad.orchestrator.v1 import orchestrator_pb2_grpc, run_event_pb2, run_pb2
from services.kit.call import Call, Principal, current_call, enter
from services.kit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    RunNotFound,
    StoreUnavailable,
    Unauthenticated,
    Unavailable,
)
from tests.support.transport import Scripted, reached

RUN = "session.1"
SOON_S = 5.0
"""Long before anything here would end by itself."""


@pytest.fixture(params=["socket", "inproc"])
async def service(request):
    servicer = Scripted()
    async with reached(request.param, servicer) as client:
        yield servicer, client, orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)


def answer(**fields):
    async def get_run(request):
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=request.run_id, **fields))

    return get_run


def raising(error):
    async def get_run(request):
        raise error

    return get_run


def events(count, error=None):
    async def watch_run(request):
        for sequence in range(1, count + 1):
            yield run_event_pb2.RunEvent(run_id=request.run_id, sequence=sequence)
        if error:
            raise error

    return watch_run


async def test_a_unary_call_is_answered(service):
    servicer, client, stub = service
    servicer.get_run = answer(last_sequence=7)
    reply = await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=5)
    assert (reply.run.run_id, reply.run.last_sequence) == (RUN, 7)


async def test_messages_cross_as_copies(service):
    servicer, client, stub = service
    kept = run_pb2.GetRunResponse(run=run_pb2.Run(run_id=RUN))

    async def get_run(request):
        request.run_id = "changed.1"
        return kept

    servicer.get_run = get_run
    request = run_pb2.GetRunRequest(run_id=RUN)
    reply = await client.unary(stub.GetRun, request, timeout=5)
    reply.run.run_id = "changed.2"
    assert request.run_id == RUN
    assert kept.run.run_id == RUN


async def test_a_stream_is_whole_and_in_order(service):
    servicer, client, stub = service
    servicer.watch_run = events(100)
    stream = client.stream(stub.WatchRun, run_pb2.WatchRunRequest(run_id=RUN), timeout=5)
    assert [event.sequence async for event in stream] == list(range(1, 101))


async def test_an_error_keeps_its_class_and_what_it_says(service):
    servicer, client, stub = service
    servicer.get_run = raising(StoreUnavailable("the store is gone", retry_after=2.5, metadata={"shard": "3"}))
    with pytest.raises(StoreUnavailable) as raised:
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=5)
    assert raised.value.message == "the store is gone"
    assert raised.value.retry_after == 2.5
    assert raised.value.metadata == {"shard": "3"}


async def test_an_error_within_a_stream_comes_after_its_messages(service):
    servicer, client, stub = service
    servicer.watch_run = events(3, RunNotFound("gone"))
    seen = []
    with pytest.raises(RunNotFound):
        async for event in client.stream(stub.WatchRun, run_pb2.WatchRunRequest(run_id=RUN), timeout=5):
            seen.append(event.sequence)
    assert seen == [1, 2, 3]


async def test_an_answer_is_not_asked_for_again(service):
    servicer, client, stub = service
    asked = []

    async def get_run(request):
        asked.append(request.run_id)
        raise StoreUnavailable("the store is gone", retry_after=1.0)

    servicer.get_run = get_run
    with pytest.raises(StoreUnavailable):
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=5)
    assert asked == [RUN]


async def test_a_callee_that_took_too_long_is_unavailable_while_the_caller_has_time(service):
    servicer, client, stub = service
    servicer.get_run = raising(DeadlineExceeded("memory did not answer in time"))
    with pytest.raises(Unavailable, match="memory did not answer in time") as raised:
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=5)
    assert raised.value.retry_after == 1.0
    with pytest.raises(DeadlineExceeded):
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=0.15)


async def test_a_strangers_exception_leaves_without_detail(service):
    servicer, client, stub = service
    servicer.get_run = raising(ZeroDivisionError("/secret/path"))
    with pytest.raises(Internal) as raised:
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=5)
    assert raised.value.message == "internal error"


async def test_a_request_that_breaks_its_rules_names_the_field_and_meets_no_handler(service):
    servicer, client, stub = service
    with pytest.raises(InvalidArgument) as raised:
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id="no run"), timeout=5)
    assert list(raised.value.fields) == ["run_id"]
    assert servicer.principals == []


async def test_bytes_that_are_no_message_are_an_invalid_argument(service):
    _, client, _ = service
    method = client.channel.unary_unary(
        "/myriad.orchestrator.v1.OrchestratorService/GetRun",
        request_serializer=lambda body: body,
        response_deserializer=run_pb2.GetRunResponse.FromString,
    )
    with pytest.raises(InvalidArgument, match="not a valid message"):
        await client.unary(method, b"\xff\xff\xff", timeout=5)
    with pytest.raises(InvalidArgument) as raised:
        await client.unary(method, b"\x0a\x02\xff\xfe", timeout=5)
    assert raised.value.fields == {"run_id": "must be UTF-8 text"}


async def test_cancelling_the_caller_cancels_the_handler(service):
    servicer, client, stub = service
    begun = asyncio.Event()

    async def get_run(request):
        begun.set()
        await asyncio.sleep(60)

    servicer.get_run = get_run
    task = asyncio.create_task(client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=30))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(servicer.cancelled.wait(), SOON_S)


async def test_leaving_a_stream_early_closes_it(service):
    servicer, client, stub = service

    async def endless(request):
        sequence = 0
        while True:
            sequence += 1
            yield run_event_pb2.RunEvent(run_id=request.run_id, sequence=sequence)
            await asyncio.sleep(0.001)

    servicer.watch_run = endless
    stream = client.stream(stub.WatchRun, run_pb2.WatchRunRequest(run_id=RUN), timeout=30)
    assert (await anext(stream)).sequence == 1
    await stream.aclose()
    await asyncio.wait_for(servicer.cancelled.wait(), SOON_S)


async def test_a_slow_reader_holds_the_writer_back(service):
    servicer, client, stub = service
    sent = 0

    async def much(request):
        nonlocal sent
        for sequence in range(1, 100_000):
            yield run_event_pb2.RunEvent(
                run_id=request.run_id, sequence=sequence, text_delta=run_event_pb2.RunTextDelta(text="x" * 10_000)
            )
            sent = sequence

    servicer.watch_run = much
    stream = client.stream(stub.WatchRun, run_pb2.WatchRunRequest(run_id=RUN), timeout=30)
    await anext(stream)
    await asyncio.sleep(0.5)
    assert sent < 1000
    await stream.aclose()


async def test_a_deadline_ends_the_call_and_the_handler(service):
    servicer, client, stub = service

    async def get_run(request):
        await asyncio.sleep(60)

    servicer.get_run = get_run
    with pytest.raises(DeadlineExceeded):
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=0.2)
    await asyncio.wait_for(servicer.cancelled.wait(), SOON_S)


async def test_the_callers_deadline_shrinks_on_the_way_down(service):
    servicer, client, stub = service
    left = []

    async def get_run(request):
        left.append(current_call().remaining())
        return run_pb2.GetRunResponse()

    servicer.get_run = get_run

    async def within_two_seconds():
        deadline = asyncio.get_running_loop().time() + 2.0
        enter(Call(method="test", metadata={}, deadline=deadline, peer="test", principal=Principal("t", "u")))
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=30)

    await asyncio.create_task(within_two_seconds())
    assert 1.0 < left[0] < 2.0


async def test_a_call_without_a_deadline_gets_the_services_own(service):
    servicer, _client, stub = service
    left = []

    async def get_run(request):
        left.append(current_call().remaining())
        return run_pb2.GetRunResponse()

    servicer.get_run = get_run
    await stub.GetRun(run_pb2.GetRunRequest(run_id=RUN))
    assert 25 < left[0] <= 30


async def test_the_principal_goes_along(service):
    servicer, client, stub = service
    servicer.get_run = answer()
    caller = Principal("acme", "zoe smith", frozenset({"admin", "approver"}))

    async def on_behalf():
        enter(Call(method="test", metadata={}, deadline=None, peer="test", principal=caller))
        await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=5)

    await asyncio.create_task(on_behalf())
    assert servicer.principals == [caller]


@pytest.mark.parametrize("user", ["", "u" * 257])
async def test_half_an_identity_or_an_endless_one_is_refused(service, user):
    servicer, _client, stub = service
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetRun(
            run_pb2.GetRunRequest(run_id=RUN), metadata=[("x-myriad-tenant", "t"), ("x-myriad-user", user)]
        )
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert servicer.principals == []


@pytest.mark.parametrize("traceparent", ["x", "", "00-zz-11-01", "-" * 55, "0" * 5000])
async def test_a_traceparent_that_is_none_is_replaced(service, traceparent):
    servicer, _, stub = service
    seen = []

    async def get_run(request):
        seen.append(current_call().traceparent)
        raise StoreUnavailable("gone")

    servicer.get_run = get_run
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetRun(run_pb2.GetRunRequest(run_id=RUN), metadata=[("traceparent", traceparent)])
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(seen[0]) == 55
    assert seen[0] != traceparent


async def test_an_unknown_method_is_unimplemented(service):
    _, client, _ = service
    method = client.channel.unary_unary("/myriad.orchestrator.v1.OrchestratorService/Nothing", lambda _: b"", bytes)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await method(None)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reply_metadata_arrives(service):
    servicer, _client, stub = service

    async def get_run(request):
        current_call().reply_metadata["x-left"] = "5"
        return run_pb2.GetRunResponse()

    servicer.get_run = get_run
    call = stub.GetRun(run_pb2.GetRunRequest(run_id=RUN))
    await call
    assert dict(await call.initial_metadata())["x-left"] == "5"


async def test_a_peer_without_the_meshs_token_is_refused():
    servicer = Scripted(get_run=answer())
    async with reached("socket", servicer, mesh_token="right") as client:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(client.channel)
        identity = [("x-myriad-tenant", "acme"), ("x-myriad-user", "eve")]
        for proof in ([], [("x-myriad-mesh-token", "wrong")]):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.GetRun(run_pb2.GetRunRequest(run_id=RUN), metadata=identity + proof)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(Unauthenticated):
            await client.unary(stub.GetRun, run_pb2.GetRunRequest(run_id=RUN), timeout=5)
        await stub.GetRun(run_pb2.GetRunRequest(run_id=RUN), metadata=[*identity, ("x-myriad-mesh-token", "right")])
    assert servicer.principals == [Principal("acme", "eve")]
