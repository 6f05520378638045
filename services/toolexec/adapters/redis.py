"""Results of tool calls in Redis: one string per call, in the tag of the run's session.

It holds `r` and the ticket while the call runs, then `f` and the serialised `ExecuteResponse`.
"""

import secrets
from datetime import timedelta

from myriad.toolexec.v1 import toolexec_pb2
from services.kit.call import Principal
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.run_ids import read_run_id, session_of
from services.kit.users import user_text
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
        names = (_name(principal, key), _keys(principal, key).effects)
        found = await self._redis.call("tool_begin", names, _running(ticket), _milliseconds(running_for))
        if found is None:
            return Begun(ticket)
        return _kept(found)

    async def begin_approved(
        self, principal: Principal, key: CallKey, approval: str, running_for: float
    ) -> Begun | Finished | InProgress:
        """As `ResultStore.begin_approved`, in one round trip."""
        ticket = secrets.token_hex(8)
        keys = _keys(principal, key)
        found = await self._redis.call(
            "tool_approved",
            (keys.session, keys.approvals, _name(principal, key), keys.effects),
            user_text(principal.user),
            approval,
            read_run_id(key.run_id)[1],
            key.tool,
            key.idempotency_key,
            _running(ticket),
            _milliseconds(running_for),
        )
        return Begun(ticket) if found is None else _kept(found)

    async def finish(self, principal: Principal, key: CallKey, ticket: str, outcome: Outcome, keep_for: float) -> None:
        """As `ResultStore.finish`."""
        value = _FINISHED + write_outcome(outcome)
        keys = (_name(principal, key),)
        await self._redis.call("tool_finish", keys, _running(ticket), value, _milliseconds(keep_for))

    async def abandon(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """As `ResultStore.abandon`."""
        await self._redis.call("tool_abandon", (_name(principal, key),), _running(ticket))


def _keys(principal: Principal, key: CallKey) -> SessionKeys:
    return SessionKeys(principal, session_of(key.run_id))


def _name(principal: Principal, key: CallKey) -> str:
    _, run = read_run_id(key.run_id)
    return _keys(principal, key).tool_call(run, principal.user, key.tool, key.idempotency_key)


def _kept(found: bytes) -> Finished | InProgress:
    return Finished(read_outcome(found[1:])) if found[:1] == _FINISHED else InProgress()


def _running(ticket: str) -> bytes:
    return _RUNNING + ticket.encode()


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def write_outcome(outcome: Outcome) -> bytes:
    """An outcome, to be kept."""
    return toolexec_pb2.ExecuteResponse(
        result_json=outcome.result_json, is_error=outcome.is_error, duration=timedelta(seconds=outcome.duration)
    ).SerializeToString()


def read_outcome(serialized: bytes) -> Outcome:
    """An outcome that was kept."""
    kept = toolexec_pb2.ExecuteResponse.FromString(serialized)
    return Outcome(kept.result_json, kept.is_error, kept.duration.ToTimedelta().total_seconds())
