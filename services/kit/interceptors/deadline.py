"""Every call ends: at the caller's deadline, or at the service's own where the caller named none."""

import asyncio
from typing import Any

from services.kit.call import Call
from services.kit.chain import Interceptor, Method, Proceed
from services.kit.errors import DeadlineExceeded


def deadline(unary_s: float, stream_s: float) -> Interceptor:
    """Bounds a call by its deadline, and by these many seconds whatever the caller says.

    Args:
        unary_s: Longest time of a call with one reply.
        stream_s: Longest time of a call with a stream of replies.
    """

    async def bound(call: Call, method: Method, proceed: Proceed) -> Any:
        longest = asyncio.get_running_loop().time() + (stream_s if method.streams else unary_s)
        call.deadline = longest if call.deadline is None else min(call.deadline, longest)
        try:
            async with asyncio.timeout_at(call.deadline) as timer:
                return await proceed(call)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded("the deadline passed before the call was done") from None

    return bound
