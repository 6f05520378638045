"""What is bounded by the time of a processor, whatever else the machine does."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Holds the block to so much of this thread's own time.

    Garbage waits meanwhile: to look for what all the tests before have left takes longer than what is measured here.

    Raises:
        AssertionError: it took longer.
    """
    gc.disable()
    began = time.thread_time()
    try:
        yield
        took = time.thread_time() - began
    finally:
        gc.enable()
    assert took < seconds, f"{took:.3f} s"
