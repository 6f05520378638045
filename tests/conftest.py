"""What is the same for all tests."""

import pytest
import structlog
from structlog.processors import KeyValueRenderer, format_exc_info


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Drawing an exception with all its variables, as structlog does unless told, takes longer than most tests."""
    structlog.configure(processors=[format_exc_info, KeyValueRenderer()])
