"""Streams of runs that are not at work in this process."""

import asyncio
from contextlib import aclosing

import pytest

from services.kit.errors import RunNotFound, ServiceUnavailable, StoreUnavailable
from services.orchestrator.adapters.inmemory_notices import InMemoryNotices
from services.orchestrator.core.watching import Watching
from services.orchestrator.domain.run import Page, Standing
from tests.support.orchestrator import ALICE, MALLORY

RUN = "s1.1"
LAST = b"last"
NEVER_S = 60.0


class Log:
    """One run's log, and how often it was read."""

    def __init__(self, notices, size=0):
        self.notices = notices
        self.entries = [str(n).encode() for n in range(1, size + 1)]
        self.standing = Standing.AT_WORK
        self.reads = 0
        self.error = None

    async def read(self, principal, run_id, after_sequence, limit):
        self.reads += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        if (principal.user, run_id) != (ALICE.user, RUN):
            raise RunNotFound("no such run")
        return Page(tuple(self.entries[after_sequence : after_sequence + limit]), self.standing)

    def append(self, *entries, quietly=False):
        self.entries += entries
        if not quietly:
            self.notices.tell(ALICE, RUN)

    def end(self):
        self.entries.append(LAST)
        self.is_now(Standing.OVER)

    def is_now(self, standing):
        self.standing = standing
        self.notices.tell(ALICE, RUN)


class Codec:
    def is_last(self, entry):
        return entry == LAST


class Elsewhere:
    """A process that watches what another works on."""

    def __init__(self, size=0, heartbeat_s=NEVER_S, poll_s=NEVER_S):
        self.notices = InMemoryNotices()
        self.log = Log(self.notices, size)
        self.watching = Watching(self.log, self.notices, Codec(), heartbeat_s, poll_s)

    def watch(self, after=0):
        return asyncio.create_task(self._collect(after))

    async def _collect(self, after):
        return [entry async for entry in self.watching.watch(ALICE, RUN, after)]

    @property
    def holds_nothing(self):
        return not self.watching._shared and not self.notices._changed


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_stranger_finds_nothing_whatever_the_run_does():
    elsewhere = Elsewhere(3)
    with pytest.raises(RunNotFound):
        await anext(elsewhere.watching.watch(MALLORY, RUN, 0))
    assert elsewhere.holds_nothing


async def test_all_see_the_same_whenever_they_came_and_wherever_they_began():
    elsewhere = Elsewhere()
    first = elsewhere.watch()
    await settle()
    for number in range(40):
        elsewhere.log.append(b"entry %d" % number)
        await settle()
    late = [elsewhere.watch(after) for after in range(42)]
    await settle()
    elsewhere.log.end()
    whole = await first
    assert whole == elsewhere.log.entries
    assert await asyncio.gather(*late) == [whole[after:] for after in range(42)]
    await settle()
    assert elsewhere.holds_nothing


async def test_one_reads_for_all():
    elsewhere = Elsewhere(5)
    watchers = [elsewhere.watch() for _ in range(100)]
    await settle()
    before = elsewhere.log.reads
    for number in range(10):
        elsewhere.log.append(b"entry %d" % number)
        await settle()
    assert elsewhere.log.reads - before == 10
    elsewhere.log.end()
    assert await asyncio.gather(*watchers) == [elsewhere.log.entries] * 100


async def test_a_slow_watcher_is_not_buffered_for_and_misses_nothing():
    elsewhere = Elsewhere(1)
    stream = elsewhere.watching.watch(ALICE, RUN, 0)
    quick = elsewhere.watch()
    async with aclosing(stream):
        slow = [await anext(stream)]
        elsewhere.log.append(b"x" * 100)
        await settle()
        slow.append(await anext(stream))
        for _ in range(30):
            elsewhere.log.append(*(b"y" * 10_000 for _ in range(100)))
            await settle()
        (shared,) = elsewhere.watching._shared.values()
        assert sum(map(len, shared.reader._entries)) <= 1 << 20
        elsewhere.log.end()
        slow += [entry async for entry in stream]
    assert slow == elsewhere.log.entries == await quick


async def test_a_log_longer_than_a_page_is_read_to_its_end():
    elsewhere = Elsewhere(1234)
    elsewhere.log.end()
    assert await elsewhere.watch() == elsewhere.log.entries
    assert elsewhere.holds_nothing


@pytest.mark.parametrize("poll_s", [0.02, NEVER_S])
async def test_word_that_is_lost_is_made_good_by_looking(poll_s):
    elsewhere = Elsewhere(1, poll_s=poll_s)
    watcher = elsewhere.watch()
    await settle()
    elsewhere.log.append(LAST, quietly=True)
    elsewhere.log.standing = Standing.OVER
    done, _ = await asyncio.wait([watcher], timeout=0.3)
    assert bool(done) == (poll_s < 1)  # who never looks is the control
    watcher.cancel()


async def test_a_cursor_past_the_end_waits_and_then_shows_what_comes_after_it():
    elsewhere = Elsewhere(2)
    beyond, further, at_once = elsewhere.watch(4), elsewhere.watch(1000), elsewhere.watch(1)
    await settle()
    assert not any(watcher.done() for watcher in (beyond, further, at_once))
    elsewhere.log.append(b"3", b"4", b"5")
    await settle()
    elsewhere.log.end()
    assert await at_once == [b"2", b"3", b"4", b"5", LAST]
    assert await beyond == [b"5", LAST]
    assert await further == []


async def test_who_comes_while_the_log_is_read_for_a_cursor_past_its_end_sees_all_in_order():
    elsewhere, slow = Elsewhere(5), asyncio.Event()
    beyond = elsewhere.watch(6)
    await settle()
    read = elsewhere.log.read

    async def slowly(principal, run_id, after, limit):
        if after == 6:
            await slow.wait()
        return await read(principal, run_id, after, limit)

    elsewhere.log.read = slowly
    elsewhere.notices.tell(ALICE, RUN)
    await settle()
    at_the_end = elsewhere.watch(5)
    await settle()
    elsewhere.log.append(b"6", b"7")
    slow.set()
    await settle()
    elsewhere.log.end()
    assert await asyncio.wait_for(at_the_end, 1) == [b"6", b"7", LAST]
    assert await asyncio.wait_for(beyond, 1) == [b"7", LAST]


async def test_a_cursor_past_the_end_of_a_run_that_is_over_ends():
    elsewhere = Elsewhere(2)
    elsewhere.log.end()
    assert await asyncio.wait_for(elsewhere.watch(1000), 1) == []


@pytest.mark.parametrize("at_first", [True, False])
async def test_a_stream_ends_when_its_run_waits_for_an_answer(at_first):
    elsewhere = Elsewhere(2)
    if at_first:
        elsewhere.log.is_now(Standing.WAITING)
    watcher = elsewhere.watch()
    await settle()
    if not at_first:
        assert not watcher.done()
        elsewhere.log.append(b"which?", quietly=True)
        elsewhere.log.is_now(Standing.WAITING)
    assert await asyncio.wait_for(watcher, 1) == elsewhere.log.entries
    await settle()
    assert elsewhere.holds_nothing


async def test_a_run_that_goes_on_after_an_answer_can_be_watched_again():
    elsewhere = Elsewhere(2)
    elsewhere.log.is_now(Standing.WAITING)
    assert len(await elsewhere.watch()) == 2
    elsewhere.log.is_now(Standing.AT_WORK)
    watcher = elsewhere.watch(2)
    await settle()
    elsewhere.log.end()
    assert await watcher == [LAST]


async def test_a_run_in_the_line_is_waited_for():
    elsewhere = Elsewhere(2)
    elsewhere.log.standing = Standing.QUEUED
    watcher = elsewhere.watch(2)
    await settle()
    assert not watcher.done()
    elsewhere.log.is_now(Standing.AT_WORK)
    elsewhere.log.end()
    assert await watcher == [LAST]


@pytest.mark.parametrize("standing", [Standing.LOST, Standing.OVER])
async def test_a_log_that_stays_without_an_end_is_told_as_an_error(standing):
    elsewhere = Elsewhere(2)
    watcher = elsewhere.watch()
    await settle()
    elsewhere.log.is_now(standing)
    with pytest.raises(ServiceUnavailable):
        await watcher
    with pytest.raises(ServiceUnavailable):
        await elsewhere.watch()


async def test_a_store_that_fails_ends_every_stream_and_the_next_one_begins_anew():
    elsewhere = Elsewhere(1)
    watchers = [elsewhere.watch() for _ in range(3)]
    await settle()
    elsewhere.log.error = StoreUnavailable("the store does not answer")
    elsewhere.log.append(b"2")
    failed = await asyncio.gather(*watchers, return_exceptions=True)
    assert [type(error) for error in failed] == [StoreUnavailable] * 3
    elsewhere.log.error = None
    watcher = elsewhere.watch(1)
    await settle()
    elsewhere.log.end()
    assert await watcher == [b"2", LAST]


async def test_silence_is_filled_with_heartbeats():
    elsewhere = Elsewhere(1, heartbeat_s=0.01)
    stream = elsewhere.watching.watch(ALICE, RUN, 1)
    async with aclosing(stream):
        assert [await anext(stream) for _ in range(3)] == [None] * 3
    await settle()
    assert elsewhere.holds_nothing
