"""Machines of a test's own: network namespaces on one wire, of which any can be cut off.

Each has an address of 10.77.0.0/24, loopback, and nothing that leads out; only each other they reach. Linux's own calls
are enough: neither `ip` nor `nft` need be installed. A namespace is gone when nothing uses it any more.
"""

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc

from tests.support.netns import NoNamespace

T = TypeVar("T")

# Sources: setns(2), netdevice(7), arp(7), rtnetlink(7), veth(4), and linux/if_link.h, linux/sockios.h for the numbers.
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _UP_AND_RUNNING = 0x8914, 0x8916, 0x891C, 0x41
_SIOCDARP, _SIOCSARP, _ETHERNET, _FOR_GOOD = 0x8953, 0x8955, 1, 0x2 | 0x4
_NOBODYS = b"\x02\0\0\0\0\1"
_SIOCBRADDBR, _SIOCBRADDIF, _SIOCBRDELIF = 0x89A0, 0x89A2, 0x89A3
_RTM_NEWLINK, _REQUEST_ACK_CREATE = 16, 0x1 | 0x4 | 0x600
_IFNAME, _LINKINFO, _NET_NS_FD = 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_BRIDGE, _DEVICE = "wire", "eth0"


class Machine:
    """A namespace with an address."""

    def __init__(self, wire: int, number: int) -> None:
        self.address = f"10.77.0.{number}"
        self._wire, self._port = wire, f"port{number}"
        self.namespace = _make()
        try:
            _inside(wire, self._plug)
            _inside(self.namespace, self._rise)
        except BaseException:
            os.close(self.namespace)
            raise

    def cut(self) -> None:
        """Takes it off the wire: what it sends is lost, and so is what is sent to it. Nobody is told."""
        _inside(self._wire, self._bridge, _SIOCBRDELIF)

    def heal(self) -> None:
        """Puts it on the wire again."""
        _inside(self._wire, self._bridge, _SIOCBRADDIF)

    def lose(self, other: "Machine") -> None:
        """What it sends to the other is lost from now on; what the other sends arrives. Nobody is told."""
        _inside(self.namespace, _neighbour, _SIOCSARP, other.address)

    def find(self, other: "Machine") -> None:
        """What it sends to the other arrives again."""
        _inside(self.namespace, _neighbour, _SIOCDARP, other.address)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs what is asynchronous on this machine, in a thread with a loop of its own, to its end."""
        return _inside(self.namespace, lambda: asyncio.run(work()))

    def spawn(self, argv: Sequence[str], output: Path) -> "subprocess.Popen[bytes]":
        """A process on this machine. Its output goes to a file. The caller ends it."""
        with output.open("ab") as file:
            return _inside(self.namespace, lambda: subprocess.Popen(argv, stdout=file, stderr=file))

    def _plug(self) -> None:
        peer = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _text(_IFNAME, _DEVICE)
        peer += _attribute(_NET_NS_FD, struct.pack("=I", self.namespace))
        kind = _text(_INFO_KIND, "veth") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, peer))
        link = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _text(_IFNAME, self._port) + _attribute(_LINKINFO, kind)
        _ask_kernel(_RTM_NEWLINK, link)
        _control(_SIOCSIFFLAGS, self._port, struct.pack("=H", _UP_AND_RUNNING))
        self._bridge(_SIOCBRADDIF)

    def _bridge(self, what: int) -> None:
        _control(what, _BRIDGE, struct.pack("=i", socket.if_nametoindex(self._port)))

    def _rise(self) -> None:
        _control(_SIOCSIFADDR, _DEVICE, _ipv4(self.address))
        _control(_SIOCSIFNETMASK, _DEVICE, _ipv4("255.255.255.0"))
        for device in ("lo", _DEVICE):
            _control(_SIOCSIFFLAGS, device, struct.pack("=H", _UP_AND_RUNNING))


@contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """So many machines on one wire.

    Raises:
        NoNamespace: this machine lets the process make none.
    """
    if sys.platform != "linux":
        raise NoNamespace("no network namespace can be made here: this is not Linux")
    wire = _make()
    made: list[Machine] = []
    try:
        with _grpc_at_home():
            _inside(wire, _make_bridge)
            made += [Machine(wire, number) for number in range(1, count + 1)]
            yield made
    except PermissionError as error:
        raise NoNamespace(f"no network namespace can be made here: {error}") from error
    finally:
        for namespace in [wire, *(machine.namespace for machine in made)]:
            os.close(namespace)
    assert not (left := _threads_elsewhere()), f"these reach nothing of this process's network any more: {left}"


@contextmanager
def _grpc_at_home() -> Iterator[None]:
    """gRPC makes its threads when it is first used, and keeps them for all who come later: so not on a machine."""
    loop = asyncio.new_event_loop()  # it asks which one runs
    loop.run_until_complete(_called_on_loop(grpc.aio.init_grpc_aio))
    try:
        with grpc.insecure_channel("127.0.0.1:1"):
            yield
    finally:
        loop.run_until_complete(_called_on_loop(grpc.aio.shutdown_grpc_aio))
        loop.close()


async def _called_on_loop(work: Callable[[], None]) -> None:
    work()


def _threads_elsewhere() -> list[str]:
    """The names of this process's threads that are in another namespace than this one."""
    here = Path("/proc/thread-self/ns/net").readlink()
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # it has just ended
            found += [(task / "comm").read_text().strip()] if (task / "ns" / "net").readlink() != here else []
    return found


def _make() -> int:
    """A new namespace, as a file that keeps it."""

    def leave() -> int:
        _called("unshare", _CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    try:
        return _in_thread(leave)
    except OSError as error:
        raise NoNamespace(f"no network namespace can be made here (it needs CAP_SYS_ADMIN): {error}") from error


def _make_bridge() -> None:
    with socket.socket() as control:
        fcntl.ioctl(control, _SIOCBRADDBR, _BRIDGE.encode().ljust(16, b"\0"))
    _control(_SIOCSIFFLAGS, _BRIDGE, struct.pack("=H", _UP_AND_RUNNING))


def _in_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _inside(namespace: int, work: Callable[..., T], *arguments: Any) -> T:
    """Does work in a thread that is in a namespace, and ends with it."""

    def entered() -> T:
        _enter(namespace)
        return work(*arguments)

    return _in_thread(entered)


def _enter(namespace: int) -> None:
    _called("setns", namespace, _CLONE_NEWNET)


def _called(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _control(what: int, device: str, value: bytes) -> None:
    with socket.socket() as control:
        fcntl.ioctl(control, what, struct.pack("16s24s", device.encode(), value))


def _neighbour(what: int, address: str) -> None:
    """Says that an address is at an Ethernet address that nobody has, or forgets that."""
    at = struct.pack("=H14s", _ETHERNET, _NOBODYS)
    entry = struct.pack("=16s16si16s16s", _ipv4(address), at, _FOR_GOOD, b"", _DEVICE.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, what, entry)


def _ipv4(address: str) -> bytes:
    return struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(address))


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + b"\0" * (-size % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _ask_kernel(kind: int, body: bytes) -> None:
    header = struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.send(header + body)
        (refused,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    if refused:
        raise OSError(-refused, os.strerror(-refused))
