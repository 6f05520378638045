"""Dead letters: pages, and runs that are asked for again."""

import asyncio

import pytest

from myriad.common.v1.scheduling_pb2 import QUEUE_CLASS_COMPLEX
from myriad.orchestrator.v1 import queue_pb2 as pb
from services.kit.call import Principal, current_principal
from services.kit.errors import DeadLetterNotFound, InvalidArgument, ModelUnavailable, SessionNotFound, StoreUnavailable
from services.kit.status import from_proto
from services.orchestrator.adapters.inmemory_dead_letters import InMemoryDeadLetters
from services.orchestrator.core.dead_letters import DeadLetterBox, keep
from services.orchestrator.domain.run import DeadLetter, Record, Request
from services.orchestrator.letters import Letters
from tests.support.orchestrator import act_as

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


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def letters():
    return InMemoryDeadLetters(kept_s=float("inf"))


@pytest.fixture
def box(letters, runs):
    return DeadLetterBox(letters, runs.begin)


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

    monkeypatch.setattr("services.orchestrator.core.dead_letters._RETRY_S", 0.001)
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


async def test_nobody_redrives_the_letters_of_another_tenant(box, letters, runs):
    await letters.put(ADMIN, letter("s.1", 1000))
    with pytest.raises(DeadLetterNotFound):
        await box.redrive(Principal("evil", "admin"), "s.1")
    assert runs.begun == []
