"""What users say of runs, in Redis: a field of the run's session, as JSON."""

import orjson

from services.kit.call import Principal
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.run_ids import read_run_id
from services.kit.users import user_text


class RedisFeedbackStore:
    """`ports.FeedbackStore` on the function of `kit/lua/feedback.lua`."""

    def __init__(self, redis: Redis) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis

    async def put(self, principal: Principal, run_id: str, score: int, text: str, time_ms: int) -> str:
        """Keeps a word on a run."""
        session_id, run = read_run_id(run_id)
        kept = orjson.dumps({"score": score, "text": text, "time_ms": time_ms})
        key = SessionKeys(principal, session_id).session
        agent = await self._redis.call("feedback_put", (key,), user_text(principal.user), run, kept)
        return str(agent.decode())
