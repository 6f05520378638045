"""What every Replies does, and what the interceptor makes of it."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio

from myriad.common.v1 import common_pb2
from myriad.orchestrator.v1 import run_pb2
from services.kit.call import Call, Principal
from services.kit.chain import Method
from services.kit.contracts import contract
from services.kit.errors import FailedPrecondition, RequestIdReused, RequestInProgress, StoreUnavailable
from services.kit.interceptors.idempotency import idempotency
from services.kit.redis import Redis
from services.kit.replies import InMemoryReplies, Replies, Request, new_ticket
from services.kit.replies_redis import RedisReplies
from services.kit.topology import SERVICES
from tests.support.valkey import UserRedis, restartable_valkey

METHOD = contract(SERVICES["orchestrator"].proto_service).methods_by_name["SubmitFeedback"]
FEEDBACK = Method("m", METHOD, run_pb2.SubmitFeedbackRequest, streams=False, access=common_pb2.Access())
LONG_S = 30.0


@pytest_asyncio.fixture(scope="module", params=["inmemory", "valkey", "cluster"])
async def replies(request, valkey_url, cluster_url) -> AsyncIterator[Replies]:
    if request.param == "inmemory":
        yield InMemoryReplies()
        return
    redis = UserRedis(valkey_url if request.param == "valkey" else cluster_url, "orchestrator")
    yield RedisReplies(redis)
    await redis.close()


@pytest.fixture
def asked() -> Request:
    return Request(Principal("acme-" + secrets.token_hex(4), "ann"), "SubmitFeedback", "r1", b"\x00" * 31 + b"d")


async def kept(replies, request, reply=b"reply") -> None:
    ticket = new_ticket()
    assert await replies.begin(request, ticket, LONG_S) is None
    await replies.keep(request, ticket, reply, LONG_S)


@pytest.mark.parametrize("reply", [b"", b"reply", b"\x00\xffr\n" * 5000])
async def test_a_kept_reply_is_given_again_byte_for_byte(replies, asked, reply):
    await kept(replies, asked, reply)
    for _ in range(3):
        assert await replies.begin(asked, new_ticket(), LONG_S) == reply


async def test_another_body_is_refused_while_the_first_is_under_way_and_after(replies, asked):
    other = replace(asked, digest=b"e" * 32)
    ticket = new_ticket()
    assert await replies.begin(asked, ticket, LONG_S) is None
    with pytest.raises(RequestIdReused):
        await replies.begin(other, new_ticket(), LONG_S)
    await replies.keep(asked, ticket, b"reply", LONG_S)
    with pytest.raises(RequestIdReused):
        await replies.begin(other, new_ticket(), LONG_S)
    assert await replies.begin(asked, new_ticket(), LONG_S) == b"reply"


async def test_who_comes_while_the_first_is_under_way_is_told_when_to_ask_again(replies, asked):
    await replies.begin(asked, new_ticket(), LONG_S)
    with pytest.raises(RequestInProgress) as refused:
        await replies.begin(asked, new_ticket(), LONG_S)
    assert 0 < refused.value.retry_after <= 1


async def test_of_many_at_once_one_begins(replies, asked):
    found = await asyncio.gather(
        *(replies.begin(asked, new_ticket(), LONG_S) for _ in range(50)), return_exceptions=True
    )
    assert found.count(None) == 1
    assert sum(isinstance(each, RequestInProgress) for each in found) == 49


async def test_a_call_that_is_forgotten_may_be_made_again_with_any_body(replies, asked):
    ticket = new_ticket()
    await replies.begin(asked, ticket, LONG_S)
    await replies.forget(asked, ticket)
    assert await replies.begin(replace(asked, digest=b"e" * 32), new_ticket(), LONG_S) is None


async def test_a_call_whose_process_was_killed_frees_its_id_in_time(replies, asked):
    late = new_ticket()
    await replies.begin(asked, late, 0.4)
    with pytest.raises(RequestInProgress):
        await replies.begin(asked, new_ticket(), LONG_S)
    await asyncio.sleep(0.45)
    now = new_ticket()
    assert await replies.begin(asked, now, LONG_S) is None
    await replies.keep(asked, late, b"late", LONG_S)  # it was not dead: it stood still
    await replies.forget(asked, late)
    with pytest.raises(RequestInProgress):
        await replies.begin(asked, new_ticket(), LONG_S)
    await replies.keep(asked, now, b"now", LONG_S)
    assert await replies.begin(asked, new_ticket(), LONG_S) == b"now"


async def test_a_reply_is_forgotten_after_its_time(replies, asked):
    ticket = new_ticket()
    await replies.begin(asked, ticket, LONG_S)
    await replies.keep(asked, ticket, b"reply", 0.1)
    await asyncio.sleep(0.15)
    assert await replies.begin(asked, new_ticket(), LONG_S) is None


async def test_an_id_is_of_one_tenant_user_and_method(replies, asked):
    await kept(replies, asked)
    tenant, user = asked.principal.tenant, asked.principal.user
    for other in (
        replace(asked, principal=Principal(tenant, "bob")),
        replace(asked, principal=Principal(tenant + "/", user)),
        replace(asked, principal=Principal(user, tenant)),
        replace(asked, method="SetBudget"),
        replace(asked, request_id="r1:"),
        replace(asked, method="SubmitFeedback:r1", request_id="1"),
    ):
        assert await replies.begin(other, new_ticket(), LONG_S) is None


async def test_a_reply_outlives_the_service_and_the_store_s_restart(tmp_path, asked):
    async with restartable_valkey(tmp_path) as server:
        await server.start()
        redis = Redis(server.url)
        await kept(RedisReplies(redis), asked)
        await redis.close()
        await server.stop()
        await server.start()
        redis = Redis(server.url)
        assert await RedisReplies(redis).begin(asked, new_ticket(), LONG_S) == b"reply"
        await redis.close()


async def test_a_store_that_is_away_refuses_the_call(tmp_path, asked):
    redis = Redis("redis://127.0.0.1:1")
    with pytest.raises(StoreUnavailable):
        await RedisReplies(redis).begin(asked, new_ticket(), LONG_S)
    await redis.close()


# Case 79: calls of one id in any order, with either body, that work, fail or are cut, or whose process is killed.


class Killed(Replies):
    """The store as a process sees it that was killed: what it writes does not arrive."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self.dead = False

    async def begin(self, request, ticket, running_s):
        return await self._replies.begin(request, ticket, running_s)

    async def keep(self, request, ticket, reply, keep_s):
        if not self.dead:
            await self._replies.keep(request, ticket, reply, keep_s)

    async def forget(self, request, ticket):
        if not self.dead:
            await self._replies.forget(request, ticket)


@dataclass
class Round:
    """One id, and what became of its calls."""

    dice: random.Random
    replies: Replies
    step_s: float
    principal: Principal = field(default_factory=lambda: Principal("acme-" + secrets.token_hex(6), "ann"))
    running: int = 0
    most_at_once: int = 0
    stuck: bool = False
    effects: list[tuple[int, bytes]] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)

    async def pause(self) -> None:
        if self.step_s:
            await asyncio.sleep(self.dice.random() * self.step_s)
        else:
            for _ in range(self.dice.randrange(6)):
                await asyncio.sleep(0)

    async def attempt(self, score: int, how: str) -> None:
        """One call through an interceptor of its own: another replica, or the same after a restart."""
        seen = Killed(self.replies)
        request = run_pb2.SubmitFeedbackRequest(run_id="s1.1", score=score, request_id="r1")
        call = Call("m", {}, asyncio.get_running_loop().time() + LONG_S, "test", request=request)
        call.principal = self.principal

        async def handler(_call: Call) -> bytes:
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
            try:
                await self.pause()
                if how == "fails":
                    raise FailedPrecondition("no")
                if how == "is cut":
                    raise asyncio.CancelledError
                if how == "is killed":
                    self.stuck = seen.dead = True
                    raise asyncio.CancelledError
                reply = secrets.token_bytes(8)
                self.effects.append((score, reply))
                return reply
            finally:
                self.running -= 1

        await self.pause()
        try:
            reply = await idempotency(seen)(call, FEEDBACK, handler)
        except (RequestInProgress, RequestIdReused, FailedPrecondition) as error:
            assert error.retry_after or not isinstance(error, RequestInProgress)
        except asyncio.CancelledError:
            assert how in {"is cut", "is killed"}
        else:
            self.answers.append((score, reply))

    async def play(self) -> None:
        hows = ["works", "works", "works", "fails", "is cut", "is killed"]
        plans = [(self.dice.choice([4, 4, 5]), self.dice.choice(hows)) for _ in range(self.dice.randrange(2, 8))]
        if self.dice.random() < 0.5:
            await asyncio.gather(*(self.attempt(*plan) for plan in plans))
        else:
            for plan in plans:
                await self.attempt(*plan)

    async def check(self) -> None:
        assert self.most_at_once <= 1
        assert len(self.effects) <= 1
        assert set(self.answers) <= set(self.effects)
        answered, before = len(self.answers), list(self.effects)
        for score in (4, 5):
            await self.attempt(score, "works")
        if self.stuck:
            assert self.effects == before
        elif before:
            assert self.effects == before
            assert self.answers[answered:] == before
        else:
            assert [score for score, _ in self.effects] == [4]
            assert self.answers[answered:] == self.effects


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.chaos)])
async def test_however_calls_interleave_one_has_effect_and_all_get_its_reply(replies, times):
    fake = isinstance(replies, InMemoryReplies)
    rounds, step_s = (1000, 0.0) if fake else (200, 0.003)
    at_once = asyncio.Semaphore(20)

    async def one(seed: int) -> None:
        async with at_once:
            played = Round(random.Random(seed), replies, step_s)
            await played.play()
            await played.check()

    await asyncio.gather(*(one(seed) for seed in range(times * rounds)))


async def test_without_the_guard_calls_have_effect_twice(replies):
    """The control: the same rounds against replies that are never found."""

    class Forgetful(InMemoryReplies):
        async def begin(self, request: Request, ticket: bytes, running_s: float) -> bytes | None:
            return None

    doubled = 0
    for index in range(50):
        played = Round(random.Random(index), Forgetful(), 0.0)
        await played.play()
        doubled += len(played.effects) > 1 or played.most_at_once > 1
    assert doubled > 25
