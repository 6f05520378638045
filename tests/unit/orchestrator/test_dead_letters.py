"""Dead letters: pages, and runs that are asked for again."""

import asyncio

import pytest

from myriad.common.v1.scheduling_pb2 import QUEUE_CLASS_COMPLEX
from myriad.orchestrator.v1 import queue_pb2 as pb
from services.kit.call import Principal, current_principal
from services.kit.errors import (
    DeadLetterNotFound,
    InvalidArgument,
    ModelUnavailable,
    RunNotFound,
    SessionNotFound,
    StoreUnavailable,
)
from services.kit.status import from_proto
from services.orchestrator.adapters.inmemory_dead_letters import InMemoryDeadLetters
from services.orchestrator.codec import EventCodec
from services.orchestrator.config import Config
from services.orchestrator.core.dead_letters import DeadLetterBox, keep
from services.orchestrator.domain.log import Cancelled, Completed, Failed, Queued
from services.orchestrator.domain.run import DeadLetter, Record, Request, Standing
from services.orchestrator.domain.turn import Usage
from services.orchestrator.letters import Letters
from tests.support.orchestrator import ALICE, SESSION, act_as, bench, kinds
from tests.support.waiting import until

CODEC = EventCodec()
ADMIN = Principal("acme", "admin", frozenset({"admin"}))
RECORD = Record("hello", "aura", 3, ("member",), queue="COMPLEX", priority=8, callback_url="https://a.b/c")


class Runs:
    def __init__(self):
        self.begun, self.refusal = [], None

    async def begin(self, principal, request, left):
        if self.refusal:
            raise self.refusal
        self.begun.append((principal, current_principal(), request))
        return "s.9"


class Late:
    """Letters that are put no sooner than `go` says."""

    def __init__(self, letters, go):
        self._letters, self._go, self.waits = letters, go, False

    async def put(self, principal, letter):
        self.waits = True
        await self._go.wait()
        await self._letters.put(principal, letter)

    def __getattr__(self, name):
        return getattr(self._letters, name)


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def letters():
    return InMemoryDeadLetters(kept_s=float("inf"))


class Log:
    """How runs stand, and their last events. Of any other run nothing is known any more."""

    def __init__(self):
        self.runs = {}

    async def bounds(self, user, run_id):
        if (user.user, run_id) not in self.runs:
            raise RunNotFound("no such run")
        standing, event = self.runs[user.user, run_id]
        return b"", CODEC.encode(run_id, 2, event), standing


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def box(letters, runs, log):
    return DeadLetterBox(letters, runs.begin, log, CODEC)


def letter(run_id, time_ms):
    return DeadLetter(run_id, "bob", RECORD, 3, ModelUnavailable("away"), time_ms)


@pytest.mark.parametrize("token", ["x", "12", "-", "-00", "g-00", "1-0", "1-zz", "1-ff"])
async def test_a_token_that_no_page_gave_is_refused(box, token):
    with pytest.raises(InvalidArgument) as refused:
        await box.page(ADMIN, 0, token)
    assert "page_token" in refused.value.fields


async def test_a_letter_is_shown_with_its_class_and_the_reason_it_was_given_up_for(box, letters):
    await letters.put(ADMIN, letter("s.1", 1500))
    act_as(ADMIN)
    reply = await Letters(box).page(pb.ListDeadLettersRequest())
    (shown,) = reply.dead_letters
    assert (shown.run_id, shown.user, shown.queue_class, shown.attempts) == ("s.1", "bob", QUEUE_CLASS_COMPLEX, 3)
    assert (from_proto(shown.error).reason, shown.time.ToMilliseconds()) == ("MODEL_UNAVAILABLE", 1500)


async def test_a_run_is_given_up_in_spite_of_a_store_that_is_away_for_a_moment(letters, monkeypatch):
    put, failures = letters.put, [StoreUnavailable("away")] * 2

    async def fails(*arguments):
        if failures:
            raise failures.pop()
        await put(*arguments)

    monkeypatch.setattr("services.orchestrator.core.patience._RETRY_S", 0.001)
    letters.put = fails
    await keep(letters, ADMIN, letter("s.1", 1000), 5.0)
    assert (await letters.get(ADMIN, "s.1")).run_id == "s.1"
    failures[:] = [StoreUnavailable("away")] * 1000
    await keep(letters, ADMIN, letter("s.2", 1000), 0.01)  # its run ends all the same


async def test_pages_follow_their_tokens_to_the_end(box, letters):
    for n in range(7):
        await letters.put(ADMIN, letter(f"s.{n}", 1000 + n // 2))
    found, token, sizes = [], "", []
    while True:
        page, token = await box.page(ADMIN, 3, token)
        found += [each.run_id for each in page]
        sizes.append(len(page))
        if not token:
            break
    assert (sizes, found) == ([3, 3, 1], [f"s.{n}" for n in (6, 5, 4, 3, 2, 1, 0)])


async def test_a_page_that_says_nothing_of_its_size_has_fifty(box, letters):
    for n in range(51):
        await letters.put(ADMIN, letter(f"s.{n}", 1000 + n))
    page, token = await box.page(ADMIN, 0, "")
    assert (len(page), len((await box.page(ADMIN, 0, token))[0])) == (50, 1)


async def test_a_run_is_asked_for_again_as_its_user_with_what_was_asked(box, letters, runs):
    await letters.put(ADMIN, letter("s.1", 1000))
    assert await box.redrive(ADMIN, "s.1") == "s.9"
    ((principal, acting, request),) = runs.begun
    assert principal == acting == Principal("acme", "bob", frozenset({"member"}))
    assert request == Request(
        "s", "hello", request.request_id, queue="COMPLEX", priority=8, callback_url="https://a.b/c"
    )
    with pytest.raises(DeadLetterNotFound):
        await box.redrive(ADMIN, "s.1")


async def test_redriven_twice_at_once_it_is_the_same_request(box, letters, runs):
    await letters.put(ADMIN, letter("s.1", 1000))
    await letters.put(ADMIN, letter("s.2", 1000))
    await asyncio.gather(box.redrive(ADMIN, "s.1"), box.redrive(ADMIN, "s.1"), box.redrive(ADMIN, "s.2"))
    first, second, other = (request.request_id for _, _, request in runs.begun)
    assert first == second != other
    assert len(first) <= 64


async def test_a_run_that_cannot_be_asked_for_again_keeps_its_letter(box, letters, runs):
    await letters.put(ADMIN, letter("s.1", 1000))
    runs.refusal = SessionNotFound("gone")
    with pytest.raises(SessionNotFound):
        await box.redrive(ADMIN, "s.1")
    assert (await letters.get(ADMIN, "s.1")).run_id == "s.1"


async def test_a_run_that_ended_otherwise_after_all_is_not_shown_and_not_asked_for_again(box, letters, runs, log):
    for n, last in enumerate((Completed("done", Usage()), Cancelled("", Usage())), 1):
        await letters.put(ADMIN, letter(f"s.{n}", 1000))
        log.runs["bob", f"s.{n}"] = (Standing.OVER, last)
        assert (await box.page(ADMIN, 0, ""))[0] == []
        with pytest.raises(DeadLetterNotFound, match="did not fail"):
            await box.redrive(ADMIN, f"s.{n}")
        with pytest.raises(DeadLetterNotFound):
            await letters.get(ADMIN, f"s.{n}")
    assert runs.begun == []


@pytest.mark.parametrize("standing", [Standing.AT_WORK, Standing.WAITING, Standing.QUEUED, Standing.LOST])
async def test_a_run_that_has_not_ended_is_not_shown_and_keeps_its_letter(box, letters, runs, log, standing):
    await letters.put(ADMIN, letter("s.1", 1000))
    log.runs["bob", "s.1"] = (standing, Queued(0, "COMPLEX"))
    assert (await box.page(ADMIN, 0, ""))[0] == []
    with pytest.raises(DeadLetterNotFound, match="has not ended"):
        await box.redrive(ADMIN, "s.1")
    assert (runs.begun, (await letters.get(ADMIN, "s.1")).run_id) == ([], "s.1")


async def test_control_a_run_that_failed_is_shown_and_asked_for_again(box, letters, log):
    await letters.put(ADMIN, letter("s.1", 1000))
    log.runs["bob", "s.1"] = (Standing.OVER, Failed(ModelUnavailable("away"), "", Usage()))
    assert [each.run_id for each in (await box.page(ADMIN, 0, ""))[0]] == ["s.1"]
    assert await box.redrive(ADMIN, "s.1") == "s.9"


@pytest.mark.parametrize("ends", ["completed", "failed"])
async def test_a_process_that_comes_too_late_leaves_the_letter_that_the_end_of_the_run_has(ends):
    """It stood still before it wrote its letter: the run ended in another process meanwhile."""
    config, go = Config(coalesce_s=0.01, end_s=1.0, max_attempts=1, lease_s=0.05), asyncio.Event()
    async with bench(config=config, lease_s=0.05) as b:
        away = [ModelUnavailable("no model answers", retry_after=1.0)]
        b.model.scripts = [away, away if ends == "failed" else ["done"]]
        late = Late(b.dead_letters, go)
        doomed, other = (b.another(config, classes=("SIMPLE",), dead_letters=kept) for kept in (late, b.dead_letters))
        run_id = await b.begin("hello", queue="SIMPLE")
        act_as(ALICE)
        working = await doomed.take(ALICE, SESSION, 1)
        await until(lambda: late.waits)
        doomed._driver._holding.close()
        b.store._run(ALICE, run_id).lease_ends = 0.0
        await (await other.take(ALICE, SESSION, 1))
        go.set()
        await working
        assert kinds(await b.events(run_id))[-1] == ends
        assert [each.run_id for each in await b.dead_letters.page(ALICE, None, 9)] == [run_id] * (ends == "failed")
        await asyncio.gather(doomed.close(), other.close())


async def test_nobody_redrives_the_letters_of_another_tenant(box, letters, runs):
    await letters.put(ADMIN, letter("s.1", 1000))
    with pytest.raises(DeadLetterNotFound):
        await box.redrive(Principal("evil", "admin"), "s.1")
    assert runs.begun == []
