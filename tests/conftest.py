"""What is the same for all tests."""

import gc
from collections.abc import Iterator

import pytest
import structlog
from structlog.processors import KeyValueRenderer, format_exc_info
from xdist import is_xdist_worker
from xdist.remote import Producer
from xdist.scheduler import Scheduling

from tests.support.lanes import Lanes, begun, place


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    config.option.loadscopereorder = False
    return Lanes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    if is_xdist_worker(session):
        items.sort(key=lambda item: begun(item.nodeid))


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests are there to the end: to look through them for garbage takes a third of a second


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if not is_xdist_worker(item.session):
        return (yield)
    with place(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Drawing an exception with all its variables, as structlog does unless told, takes longer than most tests."""
    structlog.configure(processors=[format_exc_info, KeyValueRenderer()])
