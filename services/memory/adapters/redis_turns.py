"""Turns as commands of Redis: calls of the functions of `kit/lua/turns.lua`, which say what they reply."""

from services.kit.call import Principal
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.kit.redis_connections import Command
from services.kit.users import user_text
from services.memory.adapters.redis_budgets import amounts
from services.memory.domain import Ending, Lifetimes, Order, Request


class TurnCommands:
    """All are of the session's tag."""

    def __init__(self, redis: Redis, lifetimes: Lifetimes) -> None:
        """For `redis`."""
        self._redis = redis
        self._lifetimes = lifetimes

    def begin(
        self,
        principal: Principal,
        session_id: str,
        request: Request | None,
        order: Order,
        lease_ms: int,
        max_messages: int,
        reservation: str,
    ) -> Command:
        """Begins a turn."""
        lifetimes, asked = self._lifetimes, (request.request_id, request.digest) if request else ("", b"")
        return self._redis.function(
            "turn_begin",
            turn_keys(SessionKeys(principal, session_id)),
            user_text(principal.user),
            *asked,
            lease_ms,
            max_messages,
            lifetimes.session_ms,
            lifetimes.request_ms,
            order.record,
            order.concurrency,
            int(order.defer),
            order.due_ms,
            lifetimes.line_cap,
            reservation,
        )

    def undo(self, principal: Principal, session_id: str, run: int, token: int, request: Request | None) -> Command:
        """Takes a run back that has begun, or, without a token, that stands in the line."""
        keys, user = SessionKeys(principal, session_id), user_text(principal.user)
        request_id = request.request_id if request else ""
        requests = (keys.requests, keys.request_times)
        if not token:
            line = (keys.session, keys.log(run), keys.line, keys.records, keys.work, *requests, keys.callback(run))
            return self._redis.function("run_undo", line, user, run, request_id)
        names = (keys.session, keys.lease, *requests, keys.work, keys.log(run), keys.line)
        return self._redis.function("turn_undo", names, user, run, token, request_id)

    def resume(
        self, principal: Principal, session_id: str, lease_ms: int, max_messages: int, run: int, reservation: str
    ) -> Command:
        """Goes on in a session."""
        keys = SessionKeys(principal, session_id)
        return self._redis.function(
            "turn_resume",
            (keys.session, keys.lease, keys.history, keys.work, keys.line, keys.records, keys.outbox),
            user_text(principal.user),
            lease_ms,
            max_messages,
            self._lifetimes.session_ms,
            run,
            reservation,
        )

    def end(self, principal: Principal, session_id: str, ending: Ending) -> Command:
        """Ends a turn."""
        keys, lifetimes = SessionKeys(principal, session_id), self._lifetimes
        log = keys.log(ending.run)
        return self._redis.function(
            "turn_end",
            (keys.session, keys.lease, keys.history, log, keys.work, keys.line, keys.records, keys.outbox),
            user_text(principal.user),
            ending.run,
            ending.token,
            ending.first_sequence,
            lifetimes.session_ms,
            lifetimes.log_ms,
            lifetimes.history_cap,
            *amounts(ending.spent),
            len(ending.last_events),
            *ending.last_events,
            *(message.data for message in ending.messages),
        )


def turn_keys(keys: SessionKeys) -> tuple[str, ...]:
    """All that the beginning of a turn may touch."""
    begun = (keys.session, keys.lease, keys.history, keys.requests, keys.request_times)
    return (*begun, keys.work, keys.line, keys.records, keys.outbox)
