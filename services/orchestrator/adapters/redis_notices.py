"""Word of what changes in runs, by Redis's publish and subscribe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.kit.call import Principal
from services.kit.keys import STOPS, SessionKeys, read_session
from services.kit.redis import Redis
from services.kit.run_ids import read_run_id, write_run_id


class RedisNotices:
    """`ports.Notices` on what the functions of `kit/lua/` publish. One connection, one subscription a session."""

    def __init__(self, redis: Redis) -> None:
        """Hears nothing before `start`."""
        self._listener = redis.listener(self._heard)
        self._changed: dict[str, dict[bytes, list[Callable[[], None]]]] = {}
        self._stopped: Callable[[str, str], None] | None = None

    def start(self, stopped: Callable[[str, str], None]) -> None:
        """Begins to hear."""
        self._stopped = stopped
        self._listener.listen(STOPS)
        self._listener.start()

    async def close(self) -> None:
        """Hears nothing any more."""
        await self._listener.close()

    @contextmanager
    def changes(self, principal: Principal, run_id: str, changed: Callable[[], None]) -> Iterator[None]:
        """Calls `changed` when there is word of a run."""
        session_id, number = read_run_id(run_id)
        channel, run = SessionKeys(principal, session_id).session, str(number).encode()
        if channel not in self._changed:
            self._listener.listen(channel)
        of_session = self._changed.setdefault(channel, {})
        of_session.setdefault(run, []).append(changed)
        try:
            yield
        finally:
            of_session[run].remove(changed)
            if not of_session[run]:
                del of_session[run]
            if not of_session:
                del self._changed[channel]
                self._listener.leave(channel)

    def _heard(self, channel: str, message: bytes | None) -> None:
        if channel == STOPS:
            self._heard_of_stop(message)
            return
        of_session = self._changed.get(channel, {})
        heard = of_session if message is None else (message,)
        for run in heard:
            for changed in of_session.get(run, ()):
                changed()

    def _heard_of_stop(self, message: bytes | None) -> None:
        if message is None or self._stopped is None:
            return
        key, _, number = message.decode(errors="replace").rpartition(" ")
        if number.isdecimal() and (found := read_session(key)):
            tenant, session_id = found
            self._stopped(tenant, write_run_id(session_id, int(number)))
