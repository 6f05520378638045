"""Tools in the background, in Redis: one hash per execution, in the tag of the run's session."""

from collections.abc import Sequence
from typing import Any

import orjson

from services.kit.call import Principal
from services.kit.functions import Argument
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.run_ids import read_run_id
from services.kit.users import user_text
from services.toolexec.adapters.redis import read_outcome, write_outcome
from services.toolexec.domain import Background, BackgroundCall, CallKey, Outcome, State

CANCELLED = "EXECUTION_CANCELLED"


class RedisExecutions:
    """`ports.Executions` on the functions of `kit/lua/`."""

    def __init__(self, redis: Redis) -> None:
        """Uses `redis`, which its opener closes."""
        self._redis = redis

    async def begin(
        self, principal: Principal, key: CallKey, call: BackgroundCall, approval: str, wait_for: float
    ) -> Background:
        """As `Executions.begin`."""
        session_id, run = read_run_id(key.run_id)
        keys = SessionKeys(principal, session_id)
        names: tuple[str, ...] = (_name(principal, key), keys.session, keys.effects)
        arguments: tuple[Argument, ...] = (_write(call), int(call.once), _ms(wait_for), user_text(principal.user))
        if approval:
            names += (keys.approvals,)
            arguments += (approval, run, key.tool, key.idempotency_key)
        return _read(await self._redis.call("execution_begin", names, *arguments))

    async def stopped(self, running: Sequence[tuple[Principal, CallKey, str]]) -> list[bool]:
        """As `Executions.stopped`, in one round trip."""
        commands = [("HMGET", _name(principal, key), "state", "ticket") for principal, key, _ in running]
        found = await self._redis.pipeline(commands)
        return [each != [b"running", run[2].encode()] for each, run in zip(found, running, strict=True)]

    async def read(self, principal: Principal, key: CallKey) -> Background:
        """As `Executions.read`."""
        return _read(await self._redis.call("execution_get", (_name(principal, key),)))

    async def take(self, principal: Principal, key: CallKey, ticket: str, attempts: int, keep_for: float) -> Background:
        """As `Executions.take`."""
        keys = (_name(principal, key),)
        return _read(await self._redis.call("execution_take", keys, ticket, attempts, _ms(keep_for)))

    async def release(self, principal: Principal, key: CallKey, ticket: str) -> None:
        """As `Executions.release`."""
        await self._redis.call("execution_release", (_name(principal, key),), ticket)

    async def finish(
        self,
        principal: Principal,
        key: CallKey,
        ticket: str,
        state: State,
        outcome: Outcome | None,
        reason: str,
        keep_for: float,
    ) -> bool:
        """As `Executions.finish`."""
        result = write_outcome(outcome) if outcome else b""
        keys = (_name(principal, key),)
        return bool(await self._redis.call("execution_finish", keys, ticket, state, result, reason, _ms(keep_for)))

    async def cancel(self, principal: Principal, key: CallKey, keep_for: float) -> Background:
        """As `Executions.cancel`."""
        keys = (_name(principal, key),)
        return _read(await self._redis.call("execution_cancel", keys, CANCELLED, _ms(keep_for)))


def _name(principal: Principal, key: CallKey) -> str:
    session_id, run = read_run_id(key.run_id)
    return SessionKeys(principal, session_id).execution(run, principal.user, key.tool, key.idempotency_key)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _write(call: BackgroundCall) -> bytes:
    return orjson.dumps([call.agent, call.revision, call.arguments_json, call.tool_call_id, call.once])


def _read(found: Sequence[Any]) -> Background:
    state, call, result, reason = found
    # An outcome that is all default serialises to nothing: who is done has one in any case.
    outcome = read_outcome(result) if result or state == b"done" else None
    return Background(State(state.decode()), BackgroundCall(*orjson.loads(call)), outcome, reason.decode())
