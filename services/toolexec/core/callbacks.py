"""Tells the outside that a run has ended, until it has taken note or was given up."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog

from services.kit.call import Principal
from services.kit.callbacks import Callback, read_callback
from services.kit.errors import FailedPrecondition, InvalidArgument, ServiceError, ToolTimeout
from services.kit.queue import Claimed, Unreadable
from services.kit.run_ids import session_of
from services.toolexec.core.signing import Signer
from services.toolexec.core.url import UrlRefused, read_url
from services.toolexec.domain import CallbackState, HttpRequest, Url
from services.toolexec.ports import Callbacks, Clock, HttpCaller

log = structlog.get_logger(__name__)

REFUSED = "ADDRESS_REFUSED"
NO_KEY = "NO_SIGNING_KEY"
_GONE = 410
_MOST_BYTES = 1_024
"""Of an answer, which nobody reads."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How callbacks are sent.

    Args:
        public_ports: Ports of public addresses that may be called.
        exceptions: Origins (`http://127.0.0.1:9000`) that may be called though they are private, or speak no TLS.
        attempts: How often one is sent at most.
        first_delay_s: Seconds between the first and the second attempt; each later delay is twice as long.
        longest_delay_s: The longest delay.
        timeout_s: Seconds one attempt may take.
    """

    public_ports: frozenset[int]
    exceptions: Sequence[str] = ()
    attempts: int = 8
    first_delay_s: float = 5.0
    longest_delay_s: float = 3600.0
    timeout_s: float = 10.0


class CallbackSender:
    """Sends callbacks, and says which may be."""

    def __init__(self, caller: HttpCaller, outcomes: Callbacks, signer: Signer, rules: Rules, clock: Clock) -> None:
        """Opens nothing.

        Raises:
            ValueError: an exception is no origin.
        """
        self._caller = caller
        self._outcomes = outcomes
        self._signer = signer
        self._rules = rules
        self._clock = clock
        self._exceptions = frozenset(_origin(each) for each in rules.exceptions)

    async def check(self, principal: Principal, url: str) -> None:
        """Returns when an address may be called back.

        A host that is not known just now passes: it is looked up again when it is called.

        Raises:
            InvalidArgument: it may not; names `callback_url`.
        """
        try:
            if not self._signer.can_sign(principal.tenant):
                raise UrlRefused("there is no key to sign callbacks with")
            read, is_public = self._allowed(url)
            if is_public:
                await self._caller.check(read)
        except UrlRefused as error:
            raise _refused(str(error)) from None
        except FailedPrecondition:
            raise _refused("its host is no public address") from None

    async def work(self, claimed: Claimed) -> float | None:
        """Makes one attempt. Returns after how many seconds to make the next; None: there is none.

        Raises:
            Unreadable: it is none.
            StoreUnavailable: what became of it could not be kept.
        """
        try:
            principal, callback = read_callback(claimed.item.body)
        except (ValueError, TypeError, KeyError):
            raise Unreadable("the item is no callback") from None
        state, attempts = await self._outcomes.begin(principal, callback.run_id)
        if state is not CallbackState.PENDING:
            return None
        reason, is_final = await self._send(principal, callback)
        if not reason:
            state = CallbackState.DELIVERED
        elif is_final or attempts >= self._rules.attempts:
            state = CallbackState.FAILED
        await self._outcomes.note(principal, callback.run_id, state, reason)
        if state is CallbackState.FAILED:
            log.warning("callback given up", run_id=callback.run_id, attempts=attempts, reason=reason)
        return self._delay(attempts) if state is CallbackState.PENDING else None

    def _delay(self, attempts: int) -> float:
        """Seconds until the next attempt: half of it by lot, so that many do not come at once."""
        delay = min(self._rules.first_delay_s * 2.0 ** (attempts - 1), self._rules.longest_delay_s)
        return delay * random.uniform(0.5, 1.0)

    async def _send(self, principal: Principal, callback: Callback) -> tuple[str, bool]:
        """Why an attempt failed, empty when it did not, and whether another is of no use."""
        if not self._signer.can_sign(principal.tenant):
            return NO_KEY, False
        try:
            url, is_public = self._allowed(callback.url)
            async with asyncio.timeout(self._rules.timeout_s):
                answer = await self._caller.call(self._request(principal, callback, url, is_public=is_public))
        except (UrlRefused, FailedPrecondition):
            return REFUSED, True
        except TimeoutError:
            return ToolTimeout.reason, False
        except ServiceError as error:
            return error.reason, False
        reason = "" if 200 <= answer.status <= 299 else str(answer.status)
        return reason, answer.status == _GONE

    def _request(self, principal: Principal, callback: Callback, url: Url, *, is_public: bool) -> HttpRequest:
        session_id = session_of(callback.run_id)
        ended = datetime.fromtimestamp(callback.end_ms / 1000, UTC)
        body = orjson.dumps(
            {
                "type": f"run.{callback.state}",
                "timestamp": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "data": {"run_id": callback.run_id, "session_id": session_id, "state": callback.state},
            }
        )
        seconds = int(self._clock.now().timestamp())
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "myriad"}
        headers |= self._signer.headers(principal.tenant, message_id(principal, callback.run_id), seconds, body)
        return HttpRequest("POST", url, headers, body, is_public, _MOST_BYTES)

    def _allowed(self, url: str) -> tuple[Url, bool]:
        """Where to send it, and whether only public addresses may be connected to.

        Raises:
            UrlRefused: it may not be called.
        """
        read = read_url(url)
        if (read.scheme, read.host, read.port) in self._exceptions:
            return read, False
        if read.scheme != "https":
            raise UrlRefused("callbacks go to https only")
        if read.port not in self._rules.public_ports:
            raise UrlRefused(f"public addresses are not called on port {read.port}")
        return read, True


def message_id(principal: Principal, run_id: str) -> str:
    """Names the message of a run, however often it is sent. It has no full stop, which would part it for a verifier."""
    return "msg_" + hashlib.sha256(f"{principal.tenant}\x00{run_id}".encode()).hexdigest()[:32]


def _origin(text: str) -> tuple[str, str, int]:
    try:
        url = read_url(text)
    except UrlRefused as error:
        raise ValueError(f"a callback exception cannot be used: {error}") from None
    if url.target != "/":
        raise ValueError("a callback exception is an origin, http(s)://host[:port]")
    return url.scheme, url.host, url.port


def _refused(why: str) -> InvalidArgument:
    return InvalidArgument("the address may not be called back", fields={"callback_url": why})
