"""Both ends of the logs of a session's runs, in Redis."""

from collections.abc import Sequence

from services.kit.call import Principal
from services.kit.errors import SessionNotFound
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.kit.users import user_text


class RedisRunEnds:
    """`ports.RunEnds` on the logs that `RedisRunLog` writes."""

    def __init__(self, redis: Redis) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis

    async def newest(self, principal: Principal, session_id: str) -> int:
        """Number of the run accepted last."""
        key = SessionKeys(principal, session_id).session
        try:
            found = await self._redis.call("session_get", (key,), user_text(principal.user))
        except SessionNotFound:
            return 0
        return int(found[3])

    async def ends(
        self, principal: Principal, session_id: str, runs: Sequence[int]
    ) -> Sequence[tuple[int, bytes, bytes]]:
        """Both ends of the logs of these runs."""
        keys = SessionKeys(principal, session_id)
        commands: list[Command] = []
        for run in runs:
            commands.append(("XRANGE", keys.log(run), "-", "+", "COUNT", 1))
            commands.append(("XREVRANGE", keys.log(run), "+", "-", "COUNT", 1))
        replies = await self._redis.pipeline(commands) if commands else []
        both = zip(runs, replies[::2], replies[1::2], strict=True)
        return [(run, first[0][1][1], newest[0][1][1]) for run, first, newest in both if first and newest]
