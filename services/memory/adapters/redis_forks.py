"""Copies of sessions in Redis, by the functions of `kit/lua/`.

The source and the copy have tags of their own. What is read of the source is read at once; the copy is made at once, by
one function. In between a death leaves at most a name in the user's index, of which nothing can be read, which is shown
to nobody, and which goes like that of any session that is not there.
"""

from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import RequestIdReused, SessionNotFound
from services.kit.keys import SessionKeys, UserKeys
from services.kit.redis import Redis
from services.kit.users import user_text
from services.memory.adapters.redis_index import SessionIndex, session_of
from services.memory.codec import parse_message, run_that_wrote
from services.memory.domain import Lifetimes, Message, Past, Request, Session


class RedisForkStore:
    """`ForkStore` beside `RedisSessionStore`."""

    def __init__(self, redis: Redis, lifetimes: Lifetimes) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis
        self._lifetimes = lifetimes
        self._index = SessionIndex(redis, lifetimes)

    async def made(self, principal: Principal, request: Request) -> Session | None:
        """As `ForkStore.made`."""
        key = UserKeys(principal).created(request.request_id)
        session_id, digest = await self._redis.execute("HMGET", key, "session", "digest")
        if session_id is None:
            return None
        if digest != request.digest:
            raise RequestIdReused("the request id was used before with another body")
        try:
            key = SessionKeys(principal, session_id.decode()).session
            found = await self._redis.call("session_get", (key,), user_text(principal.user))
        except SessionNotFound:
            return None  # whoever began to make it died
        return session_of(session_id.decode(), found)

    async def past(self, principal: Principal, session_id: str) -> Past:
        """As `ForkStore.past`."""
        keys = SessionKeys(principal, session_id)
        agent, runs, unfinished, kept = await self._redis.call(
            "session_past", (keys.session, keys.history, keys.line), user_text(principal.user)
        )
        messages = [parse_message(data) for data in kept]
        said = [(run_that_wrote(session_id, message), message) for message in messages]
        trimmed = len(said) >= self._lifetimes.history_cap
        return Past(agent.decode(), runs, frozenset(map(int, unfinished)), said, trimmed)

    async def fork(
        self, principal: Principal, session_id: str, agent: str, messages: Sequence[Message], request: Request | None
    ) -> Session:
        """As `ForkStore.fork`."""
        session_id = await self._index.add(principal, session_id, request)
        keys = SessionKeys(principal, session_id)
        found = await self._redis.call(
            "session_fork",
            (keys.session, keys.history),
            user_text(principal.user),
            agent,
            request.request_id if request else "",
            self._lifetimes.session_ms,
            *(message.data for message in messages),
        )
        return session_of(session_id, found)
