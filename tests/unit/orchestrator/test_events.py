"""What happens is told soon, to handlers and to the store, and harms nobody."""

import asyncio
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from services.kit.call import Principal
from services.kit.errors import RunLimitReached, RunNotFound, StoreUnavailable
from services.kit.telemetry import open_telemetry
from services.orchestrator.adapters.inmemory_events import InMemoryEvents, InMemoryFeedbackStore, InMemoryRunEnds
from services.orchestrator.codec import EventCodec
from services.orchestrator.core.events import EventBus, happened
from services.orchestrator.core.feedback import Feedback, count_feedback
from services.orchestrator.core.run_events import RunEvents
from services.orchestrator.domain.agent import ToolCall
from services.orchestrator.domain.events import EventType
from services.orchestrator.domain.log import Cancelled, Completed, Failed, Outcome, Started, ToolFinished
from services.orchestrator.domain.run import RunEnd
from services.orchestrator.domain.turn import Usage
from services.orchestrator.event_codec import read_end, write_event

ANN = Principal("acme", "ann")


class Bench:
    """A bus over a fake, and what its metrics say."""

    def __init__(self, **kw):
        self.store = InMemoryEvents()
        self.telemetry = open_telemetry("test", "", 0.0)
        self.bus = EventBus(self.store, self.telemetry.events, **({"flush_s": 0.01} | kw))

    def metric(self, name, **labels):
        return self.telemetry.metrics.get_sample_value(f"{name}_total", labels) or 0

    async def told(self, tenant=ANN.tenant):
        return [event for _, event in await self.store.read(tenant, "0", 100_000)]


@pytest.fixture
async def b():
    made = Bench()
    yield made
    await made.bus.close()


def event(number=1, kind=EventType.RUN_STARTED, time_ms=0, **attributes):
    return happened(kind, ANN, "s1", f"s1.{number}", attributes, time_ms=time_ms)


async def settled(seconds=0.05):
    await asyncio.sleep(seconds)


def test_an_event_has_the_same_id_whoever_tells_it():
    first = happened(EventType.TOOL_EXECUTED, ANN, "s1", "s1.2", {"tool": "calc"}, part="call_0_0", time_ms=5)
    again = happened(EventType.TOOL_EXECUTED, ANN, "s1", "s1.2", {"tool": "calc"}, part="call_0_0", time_ms=9)
    assert first.id == again.id == "s1.2/tool.executed/call_0_0"
    others = {
        happened(EventType.TOOL_EXECUTED, ANN, "s1", "s1.2", part="call_0_1").id,
        happened(EventType.RUN_FAILED, ANN, "s1", "s1.2").id,
        happened(EventType.RUN_COMPLETED, ANN, "s1", "s1.2").id,
        happened(EventType.RUN_STARTED, ANN, "s1", "s1.2").id,
        happened(EventType.SESSION_STARTED, ANN, "s1").id,
    }
    assert len(others | {first.id}) == 6


async def test_events_are_told_soon_together_and_in_order(b):
    calls = []
    publish = b.store.publish

    async def counted(events):
        calls.append(len(events))
        await publish(events)

    b.store.publish = counted
    told = [event(number) for number in range(1, 31)]
    for each in told:
        b.bus.publish(each)
    assert await b.told() == []
    await settled()
    assert await b.told() == told
    assert calls == [30]
    b.bus.publish(event(31))
    await settled()
    assert calls == [30, 1]
    assert b.metric("myriad_events", type="run.started") == 31


async def test_while_the_store_is_away_events_wait_and_none_is_lost(b):
    b.store.error = StoreUnavailable("away")
    for number in range(1, 6):
        b.bus.publish(event(number))
    await settled()
    b.store.error = None
    await settled(0.2)
    assert [each.run_id for each in await b.told()] == [f"s1.{number}" for number in range(1, 6)]
    assert b.metric("myriad_events_lost", type="run.started") == 0


async def test_of_too_many_that_wait_the_new_ones_are_lost_and_counted():
    b = Bench(most_waiting=3, flush_s=0.02)
    for number in range(1, 8):
        b.bus.publish(event(number))
    await settled(0.06)
    assert [each.run_id for each in await b.told()] == ["s1.1", "s1.2", "s1.3"]
    assert b.metric("myriad_events_lost", type="run.started") == 4
    await b.bus.close()


async def test_an_event_that_breaks_the_store_is_dropped_and_later_ones_are_told(b):
    b.store.error = RuntimeError("broken")
    b.bus.publish(event(1))
    await settled()
    b.store.error = None
    b.bus.publish(event(2))
    await settled()
    assert [each.run_id for each in await b.told()] == ["s1.2"]
    assert b.metric("myriad_events_lost", type="run.started") == 1


async def test_who_stops_tells_what_waits():
    b = Bench(flush_s=60.0)
    b.bus.publish(event())
    await settled(0.01)
    await b.bus.close()
    assert len(await b.told()) == 1


async def test_who_stops_while_the_store_is_away_does_not_wait_for_it():
    b = Bench(flush_s=60.0)
    b.store.error = StoreUnavailable("away")
    b.bus.publish(event())
    await asyncio.wait_for(b.bus.close(), 0.5)
    assert b.metric("myriad_events_lost", type="run.started") == 1
    b.bus.publish(event(2))
    assert b.metric("myriad_events_lost", type="run.started") == 2


async def test_a_handler_sees_the_events_of_its_kind_in_order(b):
    seen = []

    async def handler(each):
        seen.append(each.run_id)

    b.bus.register(EventType.RUN_STARTED, "test", handler)
    for number in range(1, 4):
        b.bus.publish(event(number))
        b.bus.publish(event(number, EventType.RUN_COMPLETED))
    await settled()
    assert seen == ["s1.1", "s1.2", "s1.3"]


async def test_a_failing_or_slow_handler_harms_nobody():
    b = Bench(handler_s=0.02)
    seen = []

    async def failing(each):
        raise ValueError("no")

    async def slow(each):
        await asyncio.sleep(60)

    async def timing_out_itself(each):
        raise TimeoutError

    async def good(each):
        seen.append(each.run_id)

    handlers = {"failing": failing, "slow": slow, "timing": timing_out_itself, "good": good}
    for name, handler in handlers.items():
        b.bus.register(EventType.RUN_STARTED, name, handler)
    with capture_logs() as logs:
        b.bus.publish(event(1))
        b.bus.publish(event(2))
        await settled(0.15)
    assert {(each["handler"], each["why"]) for each in logs} == {
        ("failing", "failed"),
        ("slow", "late"),
        ("timing", "failed"),
    }
    assert seen == ["s1.1", "s1.2"]
    assert len(await b.told()) == 2
    assert b.metric("myriad_event_handler_failures", handler="failing", why="failed") == 2
    assert b.metric("myriad_event_handler_failures", handler="slow", why="late") == 2
    assert b.metric("myriad_event_handler_failures", handler="timing", why="failed") == 2
    assert b.metric("myriad_event_handler_failures", handler="good", why="failed") == 0
    await b.bus.close()


async def test_only_so_much_waits_for_a_handler():
    b = Bench(handler_s=60.0)

    async def stuck(each):
        await asyncio.sleep(60)

    b.bus.register(EventType.RUN_STARTED, "stuck", stuck)
    for number in range(1, 1_101):
        b.bus.publish(event(number))
    assert b.metric("myriad_event_handler_failures", handler="stuck", why="full") == 100
    b.bus._handlers["run.started"][0].cancel()
    await b.bus.close()
    assert len(await b.told()) == 1_100


async def test_telling_costs_a_turn_next_to_nothing(b):
    taken = []
    for _ in range(10):  # whoever else uses the machine slows some of them
        began = time.process_time()
        for number in range(200):
            b.bus.publish(event(number, agent="aura"))
        taken.append((time.process_time() - began) / 200)
    assert min(taken) < 50e-6


def entry(sequence, what, run_id="s1.1"):
    return EventCodec().encode(run_id, sequence, what)


FAILED = Failed(RunLimitReached("too much"), "", Usage())


@pytest.mark.parametrize(
    ("last", "reason"),
    [(Completed("yes", Usage()), ""), (FAILED, "RUN_LIMIT_REACHED"), (Cancelled("", Usage()), "CANCELLED")],
)
async def test_a_run_s_end_is_told_alike_by_its_owner_and_from_its_log(b, last, reason):
    first, newest = entry(1, Started("aura", 3)), entry(2, last)
    end = read_end(first, newest)
    assert (end.agent, end.reason) == ("aura", reason)
    assert abs(end.time_ms - time.time() * 1000) < 5_000
    events = RunEvents(b.bus, InMemoryRunEnds(), read_end)
    events.ended(ANN, "s1.1", "aura", last)
    assert events.ended_as_logged(ANN, "s1.1", first, newest) == end
    assert events.ended_as_logged(ANN, "s1.1", first, first) is None
    await settled()
    by_owner, by_log = await b.told()
    assert replace(by_owner, time_ms=by_log.time_ms) == by_log
    assert by_log.type == ("run.failed" if reason else "run.completed")
    assert by_log.attributes == {"agent": "aura"} | ({"reason": reason} if reason else {})
    assert (by_log.session_id, by_log.run_id, by_log.time_ms) == ("s1", "s1.1", end.time_ms)


async def test_a_tool_that_ran_is_told_and_one_that_was_refused_is_not(b):
    events = RunEvents(b.bus, InMemoryRunEnds(), read_end)
    for number, outcome in enumerate((Outcome.OK, Outcome.REFUSED, Outcome.ERROR)):
        finished = ToolFinished(ToolCall(f"call_0_{number}", "calc", "{}"), outcome, "{}", "TOOL_ERROR" * (number > 0))
        events.executed(ANN, "s1.1", "aura", finished)
    events.began(ANN, "s1.1", "aura")
    await settled()
    fine, broken, began = await b.told()
    assert fine.attributes == {"agent": "aura", "tool": "calc", "outcome": "OK"}
    assert broken.attributes == {"agent": "aura", "tool": "calc", "outcome": "ERROR", "reason": "TOOL_ERROR"}
    assert fine.id != broken.id
    assert (began.type, began.attributes) == ("run.started", {"agent": "aura"})


def test_a_log_that_goes_on_tells_no_end():
    assert read_end(entry(1, Started("aura", 3)), entry(1, Started("aura", 3))) is None
    assert read_end(b"", b"") is None


async def test_what_a_killed_process_did_not_tell_is_told_by_who_takes_over(b):
    ends = InMemoryRunEnds()
    started = entry(1, Started("aura", 3))
    ends.logs["acme", "ann", "s1"] = [
        [started, entry(2, Completed("yes", Usage()))],
        [started, entry(2, FAILED)],
        [],
        [started],
    ]
    endings = RunEvents(b.bus, ends, read_end)
    for _ in range(2):
        await endings.tell_again(ANN, "s1")
    await endings.tell_again(Principal("acme", "bob"), "s1")
    await endings.tell_again(ANN, "none")
    await settled()
    ids = [each.id for each in await b.told()]
    assert ids == ["s1.2/run.failed", "s1.1/run.completed"] * 2


async def test_what_ended_long_before_the_latest_run_is_not_told_again(b):
    ends = InMemoryRunEnds()
    ends.logs["acme", "ann", "s1"] = [[bytes([run])] for run in range(30)]
    endings = RunEvents(b.bus, ends, lambda first, last: RunEnd("aura", "", 1_000_000 + last[0] * 2_000))
    await endings.tell_again(ANN, "s1")
    await settled()
    assert [each.run_id for each in await b.told()] == [f"s1.{run}" for run in (30, 29, 28, 27, 26, 25, 24)]


async def test_feedback_on_what_is_anothers_is_neither_told_nor_counted(b):
    store = InMemoryFeedbackStore()
    store.add_run(ANN, "s1.1", "aura")
    b.bus.register(EventType.FEEDBACK_RECEIVED, "feedback", count_feedback(b.telemetry.events))
    for who, run_id in ((Principal("acme", "bob"), "s1.1"), (Principal("evil", "ann"), "s1.1"), (ANN, "s1.2")):
        with pytest.raises(RunNotFound):
            await Feedback(store, b.bus).submit(who, run_id, 5, "")
    await settled()
    assert await b.told() == []


async def test_feedback_is_kept_told_and_counted(b):
    store = InMemoryFeedbackStore()
    store.add_run(ANN, "s1.1", "aura")
    b.bus.register(EventType.FEEDBACK_RECEIVED, "feedback", count_feedback(b.telemetry.events))
    feedback = Feedback(store, b.bus)
    for score, text in ((1, "bad"), (5, ""), (5, "")):
        await feedback.submit(ANN, "s1.1", score, text)
    await settled()
    first, second, again = await b.told()
    assert (first.type, first.run_id, first.user) == ("feedback.received", "s1.1", "ann")
    assert first.attributes == {"agent": "aura", "score": "1", "text": "bad"}
    assert second.attributes == {"agent": "aura", "score": "5"}
    assert first.id != second.id == again.id
    assert store.kept["acme", "s1.1"][:2] == (5, "")
    assert b.metric("myriad_feedback", agent="aura", score="1") == 1
    assert b.metric("myriad_feedback", agent="aura", score="5") == 2


async def test_of_a_long_text_the_event_has_the_beginning_and_the_store_all(b):
    store, text = InMemoryFeedbackStore(), "ü" * 4_000
    store.add_run(ANN, "s1.1", "aura")
    await Feedback(store, b.bus).submit(ANN, "s1.1", 3, text)
    await Feedback(store, b.bus).submit(ANN, "s1.1", 3, text[:-1] + "u")
    await settled()
    first, second = await b.told()
    assert first.attributes["text"] == second.attributes["text"] == "ü" * 1_000
    assert first.id != second.id
    assert store.kept["acme", "s1.1"][1] == text[:-1] + "u"


async def test_so_many_agents_have_a_name_in_metrics_and_no_more(b):
    count = count_feedback(b.telemetry.events)
    for number in range(150):
        await count(event(1, EventType.FEEDBACK_RECEIVED, agent=f"agent-{number}", score="3"))
    await count(event(1, EventType.FEEDBACK_RECEIVED, agent="agent-7", score="3"))
    assert b.metric("myriad_feedback", agent="others", score="3") == 50
    assert b.metric("myriad_feedback", agent="agent-7", score="3") == 2


def test_an_event_goes_out_as_the_contract_has_it():
    message = write_event("7-1", event(2, agent="aura", time_ms=1_500))
    assert (message.cursor, message.event_id, message.type) == ("7-1", "s1.2/run.started", "run.started")
    assert (message.session_id, message.run_id, message.user) == ("s1", "s1.2", "ann")
    assert message.time.ToMilliseconds() == 1_500
    assert dict(message.attributes) == {"agent": "aura"}
