"""One event log, every face: whoever watches, from when and where on, over gRPC or SSE, sees the same."""

import asyncio
import json
import random

import grpc
import pytest
from google.protobuf import json_format

from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from tests.support.client import face, kinds, put_agent, sim
from tests.support.events import counted

pytestmark = pytest.mark.timeout(180)

WATCH = "/myriad.orchestrator.v1.OrchestratorService/WatchRun"
CUT = sim(deltas=[f"word{number} " for number in range(40)], delay_ms=60)
ANSWER = "".join(f"word{number} " for number in range(40))
HISTORY = sim(echo=True)


@pytest.fixture
async def user(stack):
    await put_agent(stack, "player")
    async with face(stack) as made:
        yield made


async def over_grpc(user, run_id, after=0):
    """The messages of a watch, byte for byte as they were sent."""
    watch = user.channel.unary_stream(WATCH, request_serializer=run_pb2.WatchRunRequest.SerializeToString)
    request = run_pb2.WatchRunRequest(run_id=run_id, after_sequence=after)
    return [message async for message in watch(request, metadata=user.metadata, timeout=60)]


async def over_sse(user, run_id, after=0):
    """The `data:` lines of a watch."""
    lines = []
    path = f"/v1/runs/{run_id}:watch?after_sequence={after}"
    async with user.http.stream("GET", path) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line:
                assert line.startswith("data: ")
                lines.append(line.removeprefix("data: "))
    return lines


def as_events(lines):
    """What SSE said, as gRPC would have."""
    return [json_format.ParseDict(json.loads(line), run_event_pb2.RunEvent()) for line in lines]


async def begun(user, text):
    """A run that goes on without its client, and its first event's id."""
    call = user.run(await user.session("player"), text, on_disconnect=run_pb2.ON_DISCONNECT_CONTINUE)
    run_id = (await call.read()).run_id
    return call, run_id


async def rest_of(call):
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


async def test_a_second_a_late_and_a_returning_watcher_see_the_same_byte_for_byte(user):
    call, run_id = await begun(user, sim(deltas=[f"{number} " for number in range(12)], delay_ms=80))
    early = [asyncio.create_task(face_of(user, run_id)) for face_of in (over_grpc, over_sse, over_grpc, over_sse)]
    await asyncio.sleep(0.3)
    late = [asyncio.create_task(face_of(user, run_id)) for face_of in (over_grpc, over_sse)]
    first = await rest_of(call)
    messages, lines, *others = await asyncio.gather(*early, *late)
    assert others == [messages, lines] * 2
    events = [run_event_pb2.RunEvent.FromString(message) for message in messages]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert kinds(events)[-1] == "completed"
    assert first == events[1:]  # what the call that began it was sent
    told_anew = [run_event_pb2.RunEvent.FromString(message) for message in messages]
    told_anew[-1].time.nanos ^= 1
    assert [event.SerializeToString() for event in told_anew] != messages  # the control: as if each watch told its own
    assert as_events(lines) == events
    for after in range(len(events) + 1):
        again = await asyncio.gather(over_grpc(user, run_id, after), over_sse(user, run_id, after))
        assert again == [messages[after:], lines[after:]]


async def test_a_cursor_past_the_end_waits_while_the_run_goes_on_and_ends_when_it_is_over(user):
    _, run_id = await begun(user, sim(deltas=["a ", "b ", "c "], delay_ms=300))
    beyond = [asyncio.create_task(face_of(user, run_id, 1000)) for face_of in (over_grpc, over_sse)]
    soon = asyncio.create_task(over_grpc(user, run_id, 3))
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in beyond)
    whole = await over_grpc(user, run_id)
    assert await asyncio.wait_for(asyncio.gather(*beyond), 5) == [[], []]
    assert await soon == whole[3:]
    assert await over_grpc(user, run_id, 1000) == await over_sse(user, run_id, 1000) == []


async def test_a_negative_cursor_is_an_invalid_argument(user):
    _, run_id = await begun(user, "hello")
    reply = await user.http.get(f"/v1/runs/{run_id}:watch?after_sequence=-1")
    assert (reply.status_code, reply.json()["code"]) == (400, grpc.StatusCode.INVALID_ARGUMENT.value[0])


async def test_anothers_run_is_not_found_as_one_that_never_was(stack, user):
    _, run_id = await begun(user, sim(tokens=20, delay_ms=100))
    absent = f"{run_id.rpartition('.')[0]}.77"
    async with face(stack) as stranger:
        for method in ("WatchRun", "CancelRun", "GetRun"):
            theirs, nobodys = [await refusal(who, method, each) for who, each in ((stranger, run_id), (user, absent))]
            assert theirs == nobodys
            assert theirs[0] is grpc.StatusCode.NOT_FOUND
    assert kinds(await user.watched(run_id))[-1] == "completed"


async def refusal(user, method, run_id):
    """All that a refused caller learns, trace ids aside."""
    request = getattr(run_pb2, f"{method}Request")(run_id=run_id)
    call = getattr(user.stub, method)(request, metadata=user.metadata, timeout=10)
    try:
        await (call.read() if method == "WatchRun" else call)
    except grpc.aio.AioRpcError as error:
        trailers = {key for key, _ in error.trailing_metadata() or ()}
        details = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
        return error.code(), error.details(), trailers, details
    raise AssertionError("it was not refused")


class Cut:
    """A stream that is cut again and again, and goes on from its cursor."""

    def __init__(self, user, seed):
        self.user, self.seed = user, seed
        self.random = random.Random(seed)
        self.events = []
        self.cuts = 0

    async def run(self):
        self.session = await self.user.session("player")
        fields = {"on_disconnect": run_pb2.ON_DISCONNECT_CONTINUE}
        await self._read(self.user.run(self.session, CUT, **fields))
        while not self.over:
            self.cuts += 1
            if self.random.random() < 0.5:
                await self._read(self.user.watch(self.run_id, self.events[-1].sequence))
            else:
                await self._read_sse()
        return self

    @property
    def run_id(self):
        return self.events[0].run_id

    @property
    def over(self):
        return bool(self.events) and kinds(self.events)[-1] in {"completed", "failed", "cancelled"}

    async def _read(self, call):
        for _ in range(self.random.randint(1, 6)):
            event = await call.read()
            if event is grpc.aio.EOF:
                break
            self.events.append(event)
        call.cancel()

    async def _read_sse(self):
        left = self.random.randint(1, 6)
        events = self.user.sse("GET", f"/v1/runs/{self.run_id}:watch?after_sequence={self.events[-1].sequence}")
        async for _, event in events:
            self.events.append(json_format.ParseDict(event, run_event_pb2.RunEvent()))
            left -= 1
            if not left:
                break
        await events.aclose()


@pytest.mark.parametrize("streams", [10, pytest.param(100, marks=pytest.mark.chaos)])
async def test_streams_that_are_cut_in_the_middle_go_on_without_holes_or_repeats(user, streams):
    cut = await asyncio.gather(*(Cut(user, seed).run() for seed in range(streams)))
    assert all(each.cuts >= 1 for each in cut)
    for each in cut:
        assert [event.sequence for event in each.events] == list(range(1, len(each.events) + 1))
        assert counted(each.events) == each.events[-1].completed.answer == ANSWER
        assert each.events == await user.watched(each.run_id)
        (stored,) = (
            message["content"]
            for message in json.loads((await user.turn(each.session, HISTORY))[-1].completed.answer)
            if message["role"] == "assistant"
        )
        assert stored == ANSWER
