"""Replies that are kept in Redis: one string a call, in the tag of its user, by the functions of `lua/replies.lua`."""

from services.kit.keys import UserKeys
from services.kit.redis import Redis
from services.kit.replies import Request


class RedisReplies:
    """`Replies` in Redis, so that they outlive the process and every replica knows them."""

    def __init__(self, redis: Redis) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis

    async def begin(self, request: Request, ticket: bytes, running_s: float) -> bytes | None:
        """As `Replies.begin`, in one round trip."""
        found = await self._redis.call("reply_begin", _keys(request), request.digest, ticket, _milliseconds(running_s))
        reply: bytes | None = found[0] if found else None
        return reply

    async def keep(self, request: Request, ticket: bytes, reply: bytes, keep_s: float) -> None:
        """As `Replies.keep`."""
        await self._redis.call("reply_keep", _keys(request), request.digest, ticket, reply, _milliseconds(keep_s))

    async def forget(self, request: Request, ticket: bytes) -> None:
        """As `Replies.forget`."""
        await self._redis.call("reply_forget", _keys(request), request.digest, ticket)


def _keys(request: Request) -> tuple[str]:
    return (UserKeys(request.principal).reply(request.method, request.request_id),)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
