"""The orchestrator without a log, which the benchmarks compare with, takes what the real one takes."""

import inspect

import pytest

from services.orchestrator import app
from tests.support import unlogged


@pytest.mark.parametrize("unkept", [unlogged.UnkeptLog, unlogged.UnkeptTurns, unlogged.UnkeptCodec])
def test_what_keeps_nothing_has_the_methods_of_what_it_stands_for(unkept):
    kept = unkept.__base__
    assert getattr(app, kept.__name__) is kept
    for name, method in vars(unkept).items():
        if callable(method):
            assert inspect.signature(method) == inspect.signature(getattr(kept, name)), name
