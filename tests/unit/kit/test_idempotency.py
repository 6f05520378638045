"""Which calls are made safe to repeat, and what becomes of those that do not come to a reply."""

import asyncio

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from myriad.common.v1 import common_pb2
from myriad.orchestrator.v1 import run_pb2
from services.kit.call import Call, Principal
from services.kit.chain import Method
from services.kit.contracts import contract
from services.kit.errors import NotFound, RequestIdReused, RequestInProgress, ServiceError, StoreUnavailable
from services.kit.interceptors.idempotency import idempotency
from services.kit.replies import InMemoryReplies

ANN = Principal("acme", "ann")
SERVICE = contract("myriad.orchestrator.v1.OrchestratorService")


def method(name):
    descriptor = SERVICE.methods_by_name[name]
    request_type = GetMessageClass(descriptor.input_type)
    return Method(f"/{name}", descriptor, request_type, descriptor.server_streaming, common_pb2.Access())


def call(request, seconds=5.0):
    deadline = asyncio.get_running_loop().time() + seconds
    return Call("m", {}, deadline, "test", request=request, principal=ANN)


def feedback(score=5, request_id="r1"):
    return run_pb2.SubmitFeedbackRequest(run_id="s1.1", score=score, request_id=request_id)


class Handler:
    """Counts its calls; answers, fails or hangs."""

    def __init__(self, error=None, wait=None):
        self.calls, self.error, self.wait = 0, error, wait

    async def __call__(self, call):
        self.calls += 1
        if self.wait:
            await self.wait.wait()
        if self.error:
            raise self.error
        return b"reply %d" % self.calls


async def test_a_request_without_an_id_is_asked_each_time():
    handler, once = Handler(), idempotency(InMemoryReplies())
    for _ in range(3):
        await once(call(feedback(request_id="")), method("SubmitFeedback"), handler)
    assert handler.calls == 3


@pytest.mark.parametrize("name", ["GetRun", "WatchRun", "RunTurn", "CreateRuns", "CreateSession"])
async def test_methods_without_an_id_streams_and_those_that_see_to_it_themselves_are_left_alone(name):
    handler, once = Handler(), idempotency(InMemoryReplies(), own=frozenset({"CreateSession"}))
    request = method(name).request_type()
    if "request_id" in method(name).descriptor.input_type.fields_by_name:
        request.request_id = "r1"
    for _ in range(2):
        await once(call(request), method(name), handler)
    assert handler.calls == 2


async def test_the_contract_says_which_methods_are_covered():
    once = idempotency(InMemoryReplies())
    covered = set()
    for each in SERVICE.methods:
        request = method(each.name).request_type()
        if each.server_streaming or "request_id" not in each.input_type.fields_by_name:
            continue
        request.request_id = "r1"
        handler = Handler()
        assert await once(call(request), method(each.name), handler) == await once(
            call(request), method(each.name), handler
        )
        assert handler.calls == 1
        covered.add(each.name)
    reads = MethodOptions.NO_SIDE_EFFECTS
    one_reply = {each for each in SERVICE.methods if not each.server_streaming}
    changing = {each.name for each in one_reply if each.GetOptions().idempotency_level != reads}
    assert covered == changing - {"CreateRuns"}  # each run of which has an id of its own


async def test_the_same_body_is_the_same_however_it_was_written():
    handler, once = Handler(), idempotency(InMemoryReplies())
    first = run_pb2.SubmitFeedbackRequest.FromString(feedback().SerializeToString())
    swapped = feedback()
    swapped.ClearField("text")
    assert await once(call(first), method("SubmitFeedback"), handler) == b"reply 1"
    assert await once(call(swapped), method("SubmitFeedback"), handler) == b"reply 1"
    with pytest.raises(RequestIdReused):
        await once(call(feedback(score=1)), method("SubmitFeedback"), handler)
    assert handler.calls == 1


async def test_while_the_first_is_under_way_the_second_is_told_to_wait():
    gate = asyncio.Event()
    handler, once = Handler(wait=gate), idempotency(InMemoryReplies())
    first = asyncio.create_task(once(call(feedback()), method("SubmitFeedback"), handler))
    await asyncio.sleep(0)
    with pytest.raises(RequestInProgress) as refused:
        await once(call(feedback()), method("SubmitFeedback"), handler)
    assert refused.value.retry_after
    gate.set()
    assert await first == await once(call(feedback()), method("SubmitFeedback"), handler)


@pytest.mark.parametrize("error", [NotFound("no"), StoreUnavailable("away"), RuntimeError("broken")])
async def test_a_call_that_failed_may_be_repeated_at_once(error):
    once = idempotency(InMemoryReplies())
    with pytest.raises(type(error)):
        await once(call(feedback()), method("SubmitFeedback"), Handler(error))
    assert await once(call(feedback(score=1)), method("SubmitFeedback"), Handler()) == b"reply 1"


async def test_a_caller_who_leaves_frees_the_id():
    once = idempotency(InMemoryReplies())
    left = asyncio.create_task(once(call(feedback()), method("SubmitFeedback"), Handler(wait=asyncio.Event())))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await once(call(feedback()), method("SubmitFeedback"), Handler()) == b"reply 1"


class Slow(InMemoryReplies):
    """Takes its time to keep a reply, or is away for it."""

    def __init__(self, error=None):
        super().__init__()
        self.error, self.keeping = error, asyncio.Event()

    async def keep(self, request, ticket, reply, keep_s):
        self.keeping.set()
        await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        await super().keep(request, ticket, reply, keep_s)


async def test_a_caller_who_leaves_late_finds_the_reply():
    replies, handler = Slow(), Handler()
    once = idempotency(replies)
    left = asyncio.create_task(once(call(feedback()), method("SubmitFeedback"), handler))
    await replies.keeping.wait()
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    await asyncio.sleep(0.02)
    assert await once(call(feedback()), method("SubmitFeedback"), handler) == b"reply 1"


async def test_a_store_that_goes_away_after_the_effect_fails_nobody():
    once = idempotency(Slow(StoreUnavailable("away")))
    assert await once(call(feedback()), method("SubmitFeedback"), Handler()) == b"reply 1"


async def test_a_begin_whose_reply_was_lost_frees_the_id():
    class Lossy(InMemoryReplies):
        lost = False

        async def begin(self, request, ticket, running_s):
            found = await super().begin(request, ticket, running_s)
            if not self.lost:
                self.lost = True
                raise StoreUnavailable("away")
            return found

    once = idempotency(Lossy())
    with pytest.raises(ServiceError):
        await once(call(feedback()), method("SubmitFeedback"), Handler())
    await asyncio.sleep(0)
    assert await once(call(feedback()), method("SubmitFeedback"), Handler()) == b"reply 1"


async def test_a_killed_process_frees_the_id_when_the_calls_time_is_over():
    replies = InMemoryReplies()
    asked = []

    class Watched(InMemoryReplies):
        async def begin(self, request, ticket, running_s):
            asked.append(running_s)
            return await replies.begin(request, ticket, running_s)

    await idempotency(Watched())(call(feedback(), seconds=2.0), method("SubmitFeedback"), Handler())
    assert 2.0 < asked[0] <= 3.0
