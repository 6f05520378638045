"""Every call ends: at the caller's deadline, or at the service's own where the caller named none."""

import asyncio
from typing import Any

from services.kit.call import Call
from services.kit.chain import Interceptor, Method, Proceed
from services.kit.errors import DeadlineExceeded

_EARLY_S, _EARLY = 0.05, 0.1
"""A stream ends so much before its deadline, or a tenth of its time where that is less."""


def deadline(unary_s: float, stream_s: float) -> Interceptor:
    """Bounds a call by its deadline, and by these many seconds whatever the caller says.

    A stream is ended just before: Envoy cuts it at its deadline, and can tell no code any more once it has begun.

    Args:
        unary_s: Longest time of a call with one reply.
        stream_s: Longest time of a call with a stream of replies.
    """

    async def bound(call: Call, method: Method, proceed: Proceed) -> Any:
        now = asyncio.get_running_loop().time()
        longest = now + (stream_s if method.streams else unary_s)
        call.deadline = longest if call.deadline is None else min(call.deadline, longest)
        early = min(_EARLY_S, _EARLY * (call.deadline - now)) if method.streams else 0.0
        try:
            async with asyncio.timeout_at(call.deadline - early) as timer:
                return await proceed(call)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("the deadline passed before the call was done") from None

    return bound
