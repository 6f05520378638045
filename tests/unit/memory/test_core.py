import base64
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.call import Principal
from services.kit.errors import AgentNotFound, InvalidArgument, RequestIdReused
from services.kit.run_ids import read_run_id, write_run_id
from services.memory.adapters.inmemory import InMemorySessionStore
from services.memory.adapters.inmemory_agents import InMemoryAgentStore
from services.memory.core.agents import Agents
from services.memory.core.sessions import Sessions, new_session_id, read_page_token, write_page_token
from services.memory.core.turns import Turns
from services.memory.core.window import estimate_tokens, window
from services.memory.domain import Cursor, Lifetimes, Message, Role

ALICE = Principal("acme", "alice")
LIFETIMES = Lifetimes(session_ms=60_000, log_ms=60_000, history_cap=500)
roles = st.sampled_from(list(Role))
messages = st.builds(Message, roles, st.integers(0, 400), st.binary(max_size=3))


class Memory:
    """The core on fakes, with a clock that stands still."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.store = InMemorySessionStore(LIFETIMES, lambda: self.now)
        self.agent_store = InMemoryAgentStore(revisions_kept=10, agents_allowed=10)
        self.sessions = Sessions(self.store, self.agent_store)
        self.turns = Turns(self.store)
        self.agents = Agents(self.agent_store)

    async def say(self, session_id: str, *said: Message) -> None:
        turn = await self.turns.begin(ALICE, session_id, None, lease_ms=10, max_messages=0, max_tokens=0)
        await self.turns.commit(ALICE, write_run_id(session_id, turn.run), turn.token, said, 1, b"over")


@pytest.fixture
async def memory() -> Memory:
    memory = Memory()
    await memory.agents.put(ALICE, "aura", b"content")
    return memory


def user(size: int = 4) -> Message:
    return Message(Role.USER, size, b"u")


def assistant(size: int = 4) -> Message:
    return Message(Role.ASSISTANT, size, b"a")


@pytest.mark.parametrize(("size", "tokens"), [(0, 4), (1, 5), (4, 5), (5, 6), (400, 104)])
def test_tokens_are_a_quarter_of_the_bytes_and_four(size: int, tokens: int) -> None:
    assert estimate_tokens(user(size)) == tokens


@given(st.lists(messages, max_size=30), st.integers(0, 40), st.integers(0, 2000))
def test_a_window_is_the_longest_allowed_end_of_the_history(history: list[Message], count: int, tokens: int) -> None:
    shown = list(window(history, count, tokens))
    assert shown == history[len(history) - len(shown) :]
    assert len(shown) <= count
    assert sum(map(estimate_tokens, shown)) <= tokens
    assert not shown or shown[0].role is Role.USER
    longer = history[len(history) - len(shown) - 1 :] if len(shown) < len(history) else []
    if longer and longer[0].role is Role.USER:
        assert len(longer) > count or sum(map(estimate_tokens, longer)) > tokens


def test_a_message_that_does_not_fit_hides_all_before_it() -> None:
    history = [user(4), assistant(4), user(4000), assistant(4), user(4)]
    assert list(window(history, 10, 100)) == [history[4]]


def test_a_window_never_begins_with_an_answer_to_nothing() -> None:
    assert list(window([user(), assistant(), Message(Role.TOOL, 4, b"t"), assistant()], 3, 1000)) == []


def test_session_ids_are_short_url_safe_unguessable_and_sorted_by_time() -> None:
    ids = []
    for _ in range(20):
        ids.append(new_session_id())
        time.sleep(0.0015)
    assert all(re.fullmatch(r"[0-9a-v]{29}", each) for each in ids)
    assert all(one < other for one, other in pairwise(ids))
    assert len({new_session_id()[10:] for _ in range(1000)}) == 1000


@given(st.integers(0, 2**53), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_a_page_token_comes_back_as_it_went_out(used_ms: int, session_id: str) -> None:
    token = write_page_token(Cursor(used_ms, session_id))
    assert re.fullmatch(r"[A-Za-z0-9_=-]{1,256}", token)
    assert read_page_token(token) == Cursor(used_ms, session_id)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "====",
        "garbage",
        "a" * 256,
        *map(_encoded, (b"", b":", b"1:", b":s", b"-1:s", b"1.5:s", b"\xff\xfe", b"inf:s")),
    ],
)
def test_a_garbage_page_token_is_an_invalid_argument(token: str) -> None:
    if not token:
        return
    with pytest.raises(InvalidArgument) as refused:
        read_page_token(token)
    assert list(refused.value.fields) == ["page_token"]


def test_a_run_id_names_its_session() -> None:
    assert read_run_id(write_run_id("a-b_c", 12)) == ("a-b_c", 12)


async def test_a_session_needs_an_agent_of_the_tenant(memory: Memory) -> None:
    with pytest.raises(AgentNotFound):
        await memory.sessions.create(ALICE, "nobody", "")
    with pytest.raises(AgentNotFound):
        await memory.sessions.create(Principal("other", "alice"), "aura", "")


async def test_a_request_id_stands_for_one_agent(memory: Memory) -> None:
    await memory.agents.put(ALICE, "other", b"content")
    first = await memory.sessions.create(ALICE, "aura", "r1")
    assert await memory.sessions.create(ALICE, "aura", "r1") == first
    with pytest.raises(RequestIdReused):
        await memory.sessions.create(ALICE, "other", "r1")
    assert await memory.sessions.create(ALICE, "aura", "") != await memory.sessions.create(ALICE, "aura", "")


async def test_a_page_has_50_sessions_unless_told(memory: Memory) -> None:
    for _ in range(51):
        await memory.sessions.create(ALICE, "aura", "")
    shown, token = await memory.sessions.page(ALICE, 0, "")
    assert (len(shown), bool(token)) == (50, True)
    rest, token = await memory.sessions.page(ALICE, 0, token)
    assert (len(rest), token) == (1, "")


async def test_a_turn_remembers_20_messages_and_2048_tokens_unless_told(memory: Memory) -> None:
    session_id = (await memory.sessions.create(ALICE, "aura", "")).session_id
    for _ in range(15):
        await memory.say(session_id, user(400), assistant(400))
    turn = await memory.turns.begin(ALICE, session_id, None, lease_ms=10, max_messages=0, max_tokens=0)
    assert len(turn.history) == 18  # 104 tokens each
    memory.now += 10
    turn = await memory.turns.begin(ALICE, session_id, None, lease_ms=10, max_messages=0, max_tokens=100_000)
    assert len(turn.history) == 20
    memory.now += 10
    turn = await memory.turns.begin(ALICE, session_id, None, lease_ms=10, max_messages=5, max_tokens=100_000)
    assert len(turn.history) == 4  # the fifth is an answer
    assert len(await memory.sessions.history(ALICE, session_id, 0)) == 20
    assert len(await memory.sessions.history(ALICE, session_id, 25)) == 25


async def test_a_history_fits_into_a_reply(memory: Memory) -> None:
    session_id = (await memory.sessions.create(ALICE, "aura", "")).session_id
    large = Message(Role.USER, 4, b"x" * 3 * 1024 * 1024)
    await memory.say(session_id, large, large, large, large)
    assert len(await memory.sessions.history(ALICE, session_id, 10)) == 2
