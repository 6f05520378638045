"""A call that carries a `request_id` may be repeated for 24 hours: it happens once, and its reply is given again.

It holds for each method with one reply whose request has the field `request_id`, which the contract says, and which
does not see to it itself. The same id with the same body gets the stored reply, byte for byte; ABORTED
`REQUEST_IN_PROGRESS` while the first call is under way; with another body ALREADY_EXISTS `REQUEST_ID_REUSED`. An id is
of one tenant, user and method.

Only replies are kept. A call that failed was refused and has changed nothing, or does not know what it did (the store
was away, the time was over, the caller left): asking again is right in both cases, so its id is free at once, for
another body too. A call whose process was killed frees its id when the call's own time would have been over.
"""

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any

import structlog

from services.kit.call import Call
from services.kit.chain import Interceptor, Method, Proceed
from services.kit.errors import ServiceError, StoreUnavailable
from services.kit.replies import Replies, Request, new_ticket

log = structlog.get_logger(__name__)
_KEPT_S = 86_400.0
_MARGIN_S = 1.0
"""A call under way is cut at its deadline; only after that may its id be free."""
_LONGEST_S = 60.0
"""Of a call without a deadline, which the deadline interceptor leaves none."""


def idempotency(replies: Replies, own: frozenset[str] = frozenset()) -> Interceptor:
    """Makes calls safe to repeat. Needs the request decoded and its principal known.

    Args:
        replies: Keeps what was replied.
        own: Bare names of methods that see to it themselves.
    """
    covered: dict[str, bool] = {}
    writing: set[asyncio.Task[None]] = set()

    async def once(call: Call, method: Method, proceed: Proceed) -> Any:
        if method.path not in covered:
            covered[method.path] = _is_covered(method, own)
        if not covered[method.path] or not call.request.request_id:
            return await proceed(call)
        request = _request_of(call, method)
        ticket = new_ticket()
        left = call.remaining()
        try:
            known = await replies.begin(request, ticket, (_LONGEST_S if left is None else left) + _MARGIN_S)
        except (StoreUnavailable, asyncio.CancelledError):
            write(replies.forget(request, ticket))  # it may have begun all the same
            raise
        if known is not None:
            return known
        try:
            reply: bytes = await proceed(call)
        except BaseException:
            await asyncio.shield(write(replies.forget(request, ticket)))
            raise
        await asyncio.shield(write(replies.keep(request, ticket, reply, _KEPT_S)))
        return reply

    def write(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Goes on also when the caller leaves meanwhile. A store that is away just now fails nobody's call."""
        task = asyncio.create_task(_logged(work))
        writing.add(task)
        task.add_done_callback(writing.discard)
        return task

    return once


def _is_covered(method: Method, own: frozenset[str]) -> bool:
    has_id = "request_id" in method.descriptor.input_type.fields_by_name
    return has_id and not method.streams and method.descriptor.name not in own


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except ServiceError as error:
        log.warning("reply not kept", reason=error.reason)


def _request_of(call: Call, method: Method) -> Request:
    assert call.principal is not None
    digest = hashlib.sha256(call.request.SerializeToString(deterministic=True)).digest()
    return Request(call.principal, method.descriptor.name, call.request.request_id, digest)
