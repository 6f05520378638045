import asyncio
import weakref
from dataclasses import replace

import pytest

from services.kit.breaker import Breakers, Circuit, Rules, State
from services.kit.errors import DeadlineExceeded, InvalidArgument, ModelUnavailable, ToolTimeout
from services.kit.telemetry import open_telemetry

CIRCUIT = Circuit("model", ModelUnavailable, "it rests", (ModelUnavailable, DeadlineExceeded))


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """Breakers that open after three failures and rest for two seconds."""

    def __init__(self, circuit: Circuit = CIRCUIT, capacity: int = 8) -> None:
        self.clock = Clock()
        self.metrics = open_telemetry("test", "", 0.0)
        self.breakers = Breakers(circuit, Rules(3, 2.0), self.metrics.load, capacity=capacity, clock=self.clock)
        self.calls = 0

    def call(self, error: BaseException | None = None, *, name: str = "llm", takes: float = 5.0, fair: float = 1.0):
        with self.breakers.of(name).attempt(fair):
            self.calls += 1
            self.clock.now += takes
            if error is not None:
                raise error

    def fail(self, error: BaseException, times: int = 1, **options) -> None:
        for _ in range(times):
            with pytest.raises(type(error)) as raised:
                self.call(error, **options)
            assert raised.value is error

    def shown(self, name: str = "llm") -> float | None:
        return self.metrics.metrics.get_sample_value("myriad_circuit_state", {"kind": "model", "name": name})

    def open(self) -> float | None:
        return self.metrics.metrics.get_sample_value("myriad_circuits_open", {"kind": "model"})


GONE = ModelUnavailable("gone")


@pytest.mark.parametrize("error", [GONE, DeadlineExceeded("slow"), ToolTimeout("slow")])
def test_failures_in_a_row_open_it_and_then_nothing_reaches_the_backend(error):
    world = World()
    world.fail(error, times=3)
    with pytest.raises(ModelUnavailable) as refused:
        world.call()
    assert world.calls == 3
    assert (refused.value.message, refused.value.metadata) == ("it rests", {"circuit": "open"})
    assert refused.value.retry_after == 2.0


def test_an_answer_between_failures_keeps_it_closed():
    world = World()
    for _ in range(5):
        world.fail(GONE, times=2)
        world.call()
    assert world.breakers.of("llm").state is State.CLOSED


@pytest.mark.parametrize(
    ("error", "takes"),
    [
        (InvalidArgument("bad"), 5.0),
        (asyncio.CancelledError(), 5.0),
        (GeneratorExit(), 5.0),
        (ZeroDivisionError(), 5.0),
        (DeadlineExceeded("the caller had no time"), 0.2),
    ],
)
def test_what_is_not_the_backends_fault_is_not_counted(error, takes):
    world = World()
    world.fail(error, times=10, takes=takes)
    assert world.breakers.of("llm").state is State.CLOSED


def test_a_backend_that_may_take_less_is_blamed_after_less():
    world = World()
    world.fail(DeadlineExceeded("slow"), times=3, takes=0.2, fair=0.2)
    assert world.breakers.of("llm").state is State.OPEN


def test_after_its_rest_one_call_tries_and_an_answer_closes_it():
    world = World()
    world.fail(GONE, times=3)
    world.clock.now += 1.9
    with pytest.raises(ModelUnavailable, match="rests"):
        world.call()
    world.clock.now += 0.2
    with world.breakers.of("llm").attempt():
        assert world.shown() == State.HALF_OPEN
        with pytest.raises(ModelUnavailable, match="rests"):
            world.call()
    assert world.shown() == State.CLOSED
    world.fail(GONE, times=2)
    world.call()


def test_a_try_that_fails_opens_it_again_for_the_whole_rest():
    world = World()
    world.fail(GONE, times=3)
    world.clock.now += 2.1
    world.fail(GONE, takes=0.0)
    with pytest.raises(ModelUnavailable, match="rests") as refused:
        world.call()
    assert refused.value.retry_after == 2.0


def test_a_try_that_is_cancelled_leaves_the_next_call_to_try():
    world = World()
    world.fail(GONE, times=3)
    world.clock.now += 2.1
    world.fail(asyncio.CancelledError())
    assert world.shown() == State.HALF_OPEN
    world.call()
    assert world.shown() == State.CLOSED


def test_a_stream_closes_it_by_its_first_reply():
    world = World()
    world.fail(GONE, times=3)
    world.clock.now += 2.1
    with world.breakers.of("llm").attempt() as stream:
        stream.worked()
        world.call()
    assert world.calls == 4


def test_calls_that_began_before_it_opened_change_nothing():
    world = World()
    breaker = world.breakers.of("llm")
    early, late = breaker.attempt(), breaker.attempt()
    early.__enter__()
    late.__enter__()
    world.fail(GONE, times=3)
    early.__exit__(None, None, None)
    assert breaker.state is State.OPEN
    world.clock.now += 2.1
    with breaker.attempt():
        late.__exit__(ModelUnavailable, GONE, None)
        assert breaker.state is State.HALF_OPEN
    assert breaker.state is State.CLOSED


def test_a_failure_that_raises_nothing_counts_once():
    world = World()
    for _ in range(2):
        with world.breakers.of("llm").attempt() as attempt:
            attempt.failed()
    assert world.breakers.of("llm").state is State.CLOSED
    with world.breakers.of("llm").attempt() as attempt:
        attempt.failed()
    assert world.breakers.of("llm").state is State.OPEN


def test_each_backend_has_its_own_and_its_state_is_shown():
    world = World()
    world.call(name="other")
    world.fail(GONE, times=3)
    world.call(name="other")
    assert (world.shown("llm"), world.shown("other"), world.shown("third")) == (2, 0, None)


def test_of_backends_that_users_name_those_are_shown_that_are_not_closed():
    world = World(replace(CIRCUIT, named=False))
    world.call(name="one")
    assert world.shown("one") is None
    for name in ("one", "two"):
        world.fail(GONE, times=3, name=name)
    assert (world.shown("one"), world.shown("two"), world.open()) == (State.OPEN, State.OPEN, 2)
    world.clock.now += 100.0
    with world.breakers.of("one").attempt():
        assert world.shown("one") == State.HALF_OPEN
    assert (world.shown("one"), world.shown("two"), world.open()) == (None, State.OPEN, 1)


def test_of_backends_with_one_label_the_worst_is_shown():
    world = World(replace(CIRCUIT, named=False, label=lambda name: name.partition("/")[2]))
    for name in ("acme/find", "other/find"):
        world.fail(GONE, times=3, name=name, takes=0.0)
    world.clock.now += 100.0
    with world.breakers.of("acme/find").attempt():
        assert world.shown("find") == State.OPEN
    assert world.shown("find") == State.OPEN
    world.call(name="other/find")
    assert (world.shown("find"), world.shown("acme/find")) == (None, None)


def test_no_more_are_shown_than_are_kept():
    world = World(replace(CIRCUIT, named=False), capacity=2)
    for number in range(5):
        world.fail(GONE, times=3, name=str(number), takes=0.0)
    assert [world.shown(str(number)) for number in range(5)] == [None, None, None, State.OPEN, State.OPEN]


def test_a_try_that_hangs_keeps_the_others_out_for_one_rest_only():
    world = World()
    world.fail(GONE, times=3)
    world.clock.now += 2.1
    with world.breakers.of("llm").attempt():
        world.clock.now += 1.9
        with pytest.raises(ModelUnavailable, match="rests"):
            world.call()
        world.clock.now += 0.2
        world.call()
        assert world.shown() == State.CLOSED


def test_a_slow_try_that_was_replaced_still_says_how_the_backend_is():
    world = World()
    world.fail(GONE, times=3)
    world.clock.now += 2.1
    breaker = world.breakers.of("llm")
    slow, next_one = breaker.attempt(), breaker.attempt()
    slow.__enter__()
    world.clock.now += 2.1
    next_one.__enter__()
    slow.__exit__(ModelUnavailable, GONE, None)
    assert breaker.state is State.OPEN
    next_one.__exit__(None, None, None)
    assert breaker.state is State.OPEN  # it began before that
    world.clock.now += 2.1
    with breaker.attempt() as slow:
        world.clock.now += 2.1
        with pytest.raises(asyncio.CancelledError), breaker.attempt():
            slow.worked()
            raise asyncio.CancelledError
    assert breaker.state is State.CLOSED


def test_a_backend_that_answered_others_meanwhile_is_slow_and_not_away():
    world = World()
    for _ in range(5):
        with pytest.raises(DeadlineExceeded), world.breakers.of("llm").attempt():
            world.call()
            raise DeadlineExceeded("slow")
    assert world.breakers.of("llm").state is State.CLOSED
    world.fail(DeadlineExceeded("slow"), times=3)
    assert world.breakers.of("llm").state is State.OPEN


def test_backends_that_work_or_fail_once_push_no_open_circuit_out():
    world = World(capacity=2)
    world.fail(GONE, times=3, name="away")
    for number in range(10):
        world.call(name=f"works {number}", takes=0.0)
        world.fail(GONE, name=f"fails {number}", takes=0.0)
    with pytest.raises(ModelUnavailable, match="rests"):
        world.call(name="away")


def test_failures_are_remembered_however_many_other_backends_work():
    world = World(capacity=2)
    for number in range(3):
        for other in range(5):
            world.call(name=f"works {number} {other}")
        world.fail(GONE, name="away")
    assert world.breakers.of("away").state is State.OPEN


def test_of_the_open_ones_those_used_last_are_kept():
    world = World(capacity=2)
    for name in ("first", "second"):
        world.fail(GONE, times=3, name=name, takes=0.0)
    with pytest.raises(ModelUnavailable, match="rests"):
        world.call(name="first")
    world.fail(GONE, times=3, name="third", takes=0.0)
    assert world.open() == 2
    assert {name: world.breakers.of(name).state for name in ("first", "second", "third")} == {
        "first": State.OPEN,
        "second": State.CLOSED,
        "third": State.OPEN,
    }


def test_nothing_is_kept_of_a_backend_that_works():
    world = World()
    world.fail(GONE, times=2)
    kept = weakref.ref(world.breakers.of("llm"))
    assert kept() is not None
    world.call()
    assert kept() is None


def test_calls_at_the_same_time_share_what_they_know():
    world = World()
    attempts = [world.breakers.of("llm").attempt() for _ in range(3)]
    for each in attempts:
        each.__enter__()
    for each in attempts:
        each.__exit__(ModelUnavailable, GONE, None)
    assert world.breakers.of("llm").state is State.OPEN
