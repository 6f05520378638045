"""Results of tool calls in Redis: one string per call, in the tag of the run's session.

It holds `r` and the ticket while the call runs, then `f` and the serialised `ExecuteResponse`.
"""

import secrets
from datetime import timedelta

from myriad.toolexec.v1 import toolexec_pb2
from services.kit.call import Principal
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.toolexec.domain import Begun, CallKey, Finished, InProgress, Outcome

_RUNNING, _FINISHED = b"r", b"f"


class RedisResultStore:
    """Keeps results in Redis, so that every replica sees them."""

    def __init__(self, redis: Redis) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis

    async def begin(self, principal: Principal, key: CallKey, running_for: float) -> Begun | Finished | InProgress:
        """As `ResultStore.begin`, in one round trip."""
        ticket = secrets.token_hex(8)
        found = await self._redis.execute(
            "SET", _name(principal, key), _running(ticket), "NX", "GET", "PX", _milliseconds(running_for)
        )
        if found is None:
            return Begun(ticket)
        return Finished(_outcome(found[1:])) if found[:1] == _FINISHED else InProgress()

    async def finish(self, principal: Principal, key: CallKey, ticket: str, outcome: Outcome, keep_for: float) -> None:
        """As `ResultStore.finish`."""
        kept = toolexec_pb2.ExecuteResponse(
            result_json=outcome.result_json, is_error=outcome.is_error, duration=timedelta(seconds=outcome.duration)
        )
        value = _FINISHED + kept.SerializeToString()
        keys = (_name(principal, key),)
        await self._redis.call("tool_finish", keys, _running(ticket), value, _milliseconds(keep_for))

    async def abandon(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """As `ResultStore.abandon`."""
        await self._redis.call("tool_abandon", (_name(principal, key),), _running(ticket))


def _name(principal: Principal, key: CallKey) -> str:
    session_id, _, run = key.run_id.rpartition(".")
    return SessionKeys(principal, session_id).tool_call(int(run), principal.user, key.tool, key.idempotency_key)


def _running(ticket: str) -> bytes:
    return _RUNNING + ticket.encode()


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _outcome(serialized: bytes) -> Outcome:
    kept = toolexec_pb2.ExecuteResponse.FromString(serialized)
    return Outcome(kept.result_json, kept.is_error, kept.duration.ToTimedelta().total_seconds())
