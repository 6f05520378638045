"""Runs that wait for tools, and callbacks, in Redis."""

from services.kit.call import Principal, current_traceparent
from services.kit.hints import DEFAULT_QUEUE, RunHint
from services.kit.keys import SessionKeys
from services.kit.queue import Queue
from services.kit.redis import Redis
from services.kit.run_ids import read_run_id
from services.toolexec.domain import CallbackState

_KEEP_MS = 7 * 86_400_000
"""How long a callback is remembered whose run has no log any more."""


class RedisRuns:
    """`ports.Runs`: a run goes on in a worker of its queue."""

    def __init__(self, redis: Redis, queue: Queue) -> None:
        """Uses these, which their opener closes."""
        self._redis = redis
        self._queue = queue

    async def wake(self, principal: Principal, run_id: str, tool_call_id: str, response: bytes) -> None:
        """As `Runs.wake`. A crash before the queue has it is made good by whoever tells the run again."""
        session_id, run = read_run_id(run_id)
        keys = SessionKeys(principal, session_id)
        names = (keys.session, keys.work, keys.line)
        queue = (await self._redis.call("run_wake", names, run, tool_call_id, response)).decode() or DEFAULT_QUEUE
        hint = RunHint(principal.tenant, principal.user, session_id, run)
        await self._queue.put(queue, [hint.item(traceparent=current_traceparent())], must=True)


class RedisCallbacks:
    """`ports.Callbacks`: one hash per run, beside its log and as long-lived."""

    def __init__(self, redis: Redis) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis

    async def begin(self, principal: Principal, run_id: str) -> tuple[CallbackState, int]:
        """As `Callbacks.begin`."""
        state, attempts = await self._redis.call("callback_begin", _names(principal, run_id), _KEEP_MS)
        return CallbackState(state.decode()), attempts

    async def note(self, principal: Principal, run_id: str, state: CallbackState, reason: str) -> None:
        """As `Callbacks.note`."""
        await self._redis.call("callback_note", _names(principal, run_id), state, reason, _KEEP_MS)


def _names(principal: Principal, run_id: str) -> tuple[str, str]:
    session_id, run = read_run_id(run_id)
    keys = SessionKeys(principal, session_id)
    return keys.callback(run), keys.log(run)
