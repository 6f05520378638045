"""Nothing leaves untranslated: a stranger's exception is logged here and leaves as INTERNAL without detail.

DEADLINE_EXCEEDED says that the caller's time is over. Where it was only the time that this service gives another, the
other does not answer: UNAVAILABLE, to be asked again.
"""

from typing import Any

import structlog

from services.kit.call import Call
from services.kit.chain import Method, Proceed
from services.kit.errors import DeadlineExceeded, Internal, ServiceError, ServiceUnavailable

log = structlog.get_logger(__name__)

_RETRY_S = 1.0
_OVER_S = 0.2
"""Whoever has less left has nothing left: what is called for them ends a little before."""


async def errors(call: Call, method: Method, proceed: Proceed) -> Any:
    """Lets cancellation through, and a ServiceError that says what happened; turns all else into Internal."""
    try:
        return await proceed(call)
    except ServiceError as error:
        if error.reason == DeadlineExceeded.reason and (call.remaining() or 0.0) > _OVER_S:
            raise ServiceUnavailable(error.message, retry_after=_RETRY_S) from None
        raise
    except Exception as error:
        # The one place that catches everything: it logs, and hides the detail.
        log.error("unexpected error", method=method.path, exc_info=error)
        raise Internal("internal error") from None
