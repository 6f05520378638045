"""What a machine cannot show."""

import os
from collections.abc import Mapping
from typing import NoReturn

import pytest


def not_shown(why: str, environ: Mapping[str, str] = os.environ) -> NoReturn:
    """Skips a test that cannot run on this machine, and says why; fails it in CI, where a skip is not read."""
    if environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
