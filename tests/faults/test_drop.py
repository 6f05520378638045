"""What the orchestrator sends to toolexec is lost on its way, while what toolexec sends arrives: calls end in time."""

import asyncio
import contextlib
import json
import signal
import socket
import time

import pytest

from tests.support.far_tools import EVERY_S, TOOL_S, command
from tests.support.load import OK
from tests.support.netns import NoNamespace
from tests.support.network import machines
from tests.support.showing import not_shown

MARGIN_S = 1.0
"""The orchestrator waits so much longer for toolexec than the tool may take."""

LATE_S = 0.1
HEALED_S = 5.0
LOST_S = 6.0
START_S = 60.0
PORT = 7999


def until(condition, seconds):
    """Waits, outside of any loop."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not come to that in {seconds:g} s"
        time.sleep(0.05)


@pytest.fixture
def two():
    """The caller's machine, and that of toolexec."""
    try:
        with machines(2) as made:
            yield made
    except NoNamespace as error:
        not_shown(f"a line that loses what is sent is not shown: {error}")


@contextlib.contextmanager
def program(machine, output, *words):
    """A program on a machine."""
    process = machine.spawn(command(*words), output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def calls(two, tmp_path):
    """What came of the calls until now: (kind, when each began, seconds, code)."""
    caller, callee = two
    with program(callee, tmp_path / "serving", "serve", str(tmp_path)):
        until((tmp_path / "port").exists, START_S)
        address = f"{callee.address}:{(tmp_path / 'port').read_text()}"
        with program(caller, tmp_path / "calls", "call", address):

            def read(kind, since=0.0, before=float("inf")):
                lines = (tmp_path / "calls").read_text().splitlines()
                found = [json.loads(line) for line in lines if line.startswith("[")]
                return [call for call in found if call[0] == kind and since <= call[1] < before]

            yield read


def arrives(sender, receiver):
    """Whether a packet gets from one machine to another."""

    async def sent():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(b"x", (receiver.address, PORT))

    async def received():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as into:
            into.bind((receiver.address, PORT))
            into.settimeout(0.5)
            await asyncio.to_thread(sender.run, sent)
            try:
                return into.recv(1) == b"x"
            except TimeoutError:
                return False

    return receiver.run(received)


@pytest.mark.chaos
def test_calls_to_a_toolexec_that_hears_nothing_end_by_their_deadline_and_are_answered_when_it_hears_again(two, calls):
    caller, callee = two
    until(lambda: sum(code == OK for *_, code in calls("call")) > 20, START_S)
    assert {code for *_, code in calls("call", time.monotonic() - 1)} == {OK}
    caller.lose(callee)
    lost = time.monotonic()
    assert (arrives(caller, callee), arrives(callee, caller)) == (False, True)
    time.sleep(lost + LOST_S - time.monotonic())
    assert calls("bare", lost) == [], "the control, which has no deadline, was answered"
    caller.find(callee)
    found = time.monotonic()
    until(lambda: len(calls("call", found + HEALED_S)) > 10, START_S)
    cut = calls("call", lost + EVERY_S, found - TOOL_S - MARGIN_S)
    assert len(cut) > 20
    assert {code for *_, code in cut} <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    assert max(seconds for _, _, seconds, _ in calls("call", lost - TOOL_S)) < TOOL_S + MARGIN_S + LATE_S
    assert {code for *_, code in calls("call", found + HEALED_S)} == {OK}
