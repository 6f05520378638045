"""Probes over HTTP: whether a process lives and is ready, whatever its loop does."""

import socket
import struct
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.kit.probes import STILL_S, Vitals, serve_probes
from tests.support.ports import free_port


class Clock:
    """Stands where it is put."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def served(clock):
    """A process's vitals, and where they are told."""
    metrics = CollectorRegistry()
    Counter("told", "Times that something was told.", registry=metrics).inc()
    vitals, port = Vitals(clock), free_port()
    close = serve_probes("127.0.0.1", port, vitals, metrics)
    yield vitals, f"127.0.0.1:{port}"
    close()


@pytest.fixture
def vitals(served):
    served[0].moved()
    served[0].say(ready=False)
    return served[0]


@pytest.fixture
def address(served):
    return served[1]


def asked(address, path):
    """The status and what is said."""
    try:
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=2) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_a_process_lives_before_it_is_ready_and_is_ready_when_its_checks_passed(vitals, address):
    assert (asked(address, "livez"), asked(address, "readyz")) == ((200, "yes\n"), (503, "no\n"))
    vitals.say(ready=True)
    assert (asked(address, "livez"), asked(address, "readyz")) == ((200, "yes\n"), (200, "yes\n"))
    vitals.say(ready=False)
    assert (asked(address, "livez"), asked(address, "readyz")) == ((200, "yes\n"), (503, "no\n"))


def test_a_loop_that_stands_still_lives_no_more_and_is_not_ready_whatever_was_said(vitals, address, clock):
    vitals.say(ready=True)
    clock.now += STILL_S - 0.01
    assert (asked(address, "livez")[0], asked(address, "readyz")[0]) == (200, 200)
    clock.now += 0.02
    assert (asked(address, "livez")[0], asked(address, "readyz")[0]) == (503, 503)
    vitals.moved()
    assert (asked(address, "livez")[0], asked(address, "readyz")[0]) == (200, 200)


async def test_a_probe_is_answered_while_the_loop_is_blocked(vitals, address):
    answered = []
    asking = threading.Thread(target=lambda: answered.append(asked(address, "livez")))
    asking.start()
    asking.join(5)  # which blocks this loop
    assert answered == [(200, "yes\n")]


@pytest.mark.parametrize("path", ["metrics", "livezz", "readyz/", ""])
def test_all_else_that_is_asked_for_there_are_the_metrics(address, path):
    status, said = asked(address, path)
    assert status == 200
    assert "told_total 1.0" in said.splitlines()


def test_who_connects_and_says_nothing_delays_nobody(vitals, address):
    host, _, port = address.partition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(3)]
    began = time.monotonic()
    assert asked(address, "livez")[0] == 200
    assert time.monotonic() - began < 5.0
    for each in silent:
        each.close()


def test_a_request_that_comes_in_pieces_is_the_same_request(vitals, address):
    host, _, port = address.partition(":")
    vitals.say(ready=False)
    with socket.create_connection((host, int(port))) as asking:
        for piece in (b"GET /rea", b"dyz HTTP/1.1\r\nHost: ", b"here\r\n\r\n"):
            asking.send(piece)
            time.sleep(0.02)
        assert b" 503 " in asking.recv(1024).partition(b"\r\n")[0]


def test_who_asks_and_goes_leaves_it_answering(vitals, address):
    host, _, port = address.partition(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it closes with a reset
            asking.send(b"GET /livez HTTP/1.1\r\n")
    assert asked(address, "livez")[0] == 200


def test_a_port_that_is_taken_cannot_be_had(address):
    with pytest.raises(OSError, match="in use"):
        serve_probes("127.0.0.1", int(address.partition(":")[2]), Vitals(), CollectorRegistry())


def test_its_thread_ends_when_it_is_told_to():
    before, port = set(threading.enumerate()), free_port()
    close = serve_probes("127.0.0.1", port, Vitals(), CollectorRegistry())
    (thread,) = set(threading.enumerate()) - before
    close()
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
