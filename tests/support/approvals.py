"""Approvals as the orchestrator leaves them, for tests of those who use them up."""

import time

import orjson

from services.kit.call import Principal
from services.kit.keys import SessionKeys
from services.kit.redis import Redis
from services.toolexec.adapters.inmemory import InMemoryApprovals
from services.toolexec.domain import CallKey
from tests.support.toolexec import approval


class Approvals:
    """Puts approvals where a store looks for them: into the fake, or into the session's tag."""

    def __init__(self, where: InMemoryApprovals | Redis) -> None:
        self._where = where

    async def put(
        self, principal: Principal, key: CallKey, token: str = "t1", *, state: str = "approved", lasts_s: float = 60.0
    ) -> str:
        """Writes one, in a session of the principal's. Returns how a store knows the token."""
        if isinstance(self._where, InMemoryApprovals):
            self._where.put(principal, key, approval(token), state, lasts_s)
            return approval(token)
        session_id, _, run = key.run_id.rpartition(".")
        keys = SessionKeys(principal, session_id)
        await self._where.execute("HSETNX", keys.session, "owner", principal.user)
        expires_ms = int((time.time() + lasts_s) * 1000)
        entry = {"run": int(run), "tool": key.tool, "key": key.idempotency_key, "expires_ms": expires_ms}
        await self._where.execute("HSET", keys.approvals, approval(token), orjson.dumps(entry | {"state": state}))
        for name in (keys.session, keys.approvals):
            await self._where.execute("PEXPIRE", name, 60_000)
        return approval(token)
