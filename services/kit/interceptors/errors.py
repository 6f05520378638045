"""Nothing leaves untranslated: a stranger's exception is logged here and leaves as INTERNAL without detail."""

from typing import Any

import structlog

from services.kit.call import Call
from services.kit.chain import Method, Proceed
from services.kit.errors import Internal, ServiceError

log = structlog.get_logger(__name__)


async def errors(call: Call, method: Method, proceed: Proceed) -> Any:
    """Lets a ServiceError and cancellation through, and turns all else into Internal."""
    try:
        return await proceed(call)
    except ServiceError:
        raise
    except Exception as error:
        # The one place that catches everything: it logs, and hides the detail.
        log.error("unexpected error", method=method.path, exc_info=error)
        raise Internal("internal error") from None
