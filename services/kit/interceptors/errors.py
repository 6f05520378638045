"""Nothing leaves untranslated: a stranger's exception is logged here and leaves as INTERNAL without detail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from services.kit.call import Call
from services.kit.chain import Method
from services.kit.errors import Internal, ServiceError

log = structlog.get_logger(__name__)


@asynccontextmanager
async def errors(call: Call, method: Method) -> AsyncIterator[None]:
    """Lets a ServiceError and cancellation through, and turns all else into Internal."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        # The one place that catches everything: it logs, and hides the detail.
        log.error("unexpected error", method=method.path, exc_info=error)
        raise Internal("internal error") from None
