"""A network namespace of a test's own, and every connection that is tried in it.

It has loopback and nothing else: no device, no default route, nothing that leads out. Every address, public ones too,
is an address of this loopback, so a connection that is tried succeeds where something listens, and is always seen.

Linux's own calls are enough: neither `ip` nor `nft` need be installed.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

# Sources: clone(2), netdevice(7), rtnetlink(7), packet(7) and RFC 9293 for the flags of TCP.
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _UP_AND_RUNNING = 0x8914, 0x41
_RTM_NEWROUTE, _REQUEST_ACK_CREATE = 24, 0x1 | 0x4 | 0x400
_TABLE_LOCAL, _BY_BOOT, _SCOPE_HOST, _TYPE_LOCAL = 255, 3, 254, 2
_OUTPUT_INTERFACE = 4
_EVERY_PROTOCOL, _OUTGOING = 0x0003, 4
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_TCP = 6
_SYN, _ACK = 0x02, 0x10


class NoNamespace(Exception):
    """This machine lets the process make none."""


class Attempt(NamedTuple):
    """One SYN."""

    address: str
    port: int


def enter() -> None:
    """Moves this process, which must have one thread still, into a namespace of its own.

    Raises:
        NoNamespace: it is neither root (CAP_SYS_ADMIN), nor may it make a user namespace.
    """
    if sys.platform != "linux":
        raise NoNamespace("no network namespace can be made here: this is not Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0 and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        why = os.strerror(ctypes.get_errno())
        raise NoNamespace(f"no network namespace can be made here (it needs CAP_SYS_ADMIN): {why}")
    with socket.socket() as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))
    for family in (socket.AF_INET, socket.AF_INET6):
        _make_every_address_local(family)


class Attempts:
    """Counts SYNs that leave a socket of this namespace, whatever becomes of them."""

    def __init__(self) -> None:
        """Listens from now on.

        Raises:
            PermissionError: the process does not own the namespace.
        """
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERY_PROTOCOL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.setblocking(False)

    def take(self) -> list[Attempt]:
        """Those since the last time, in order."""
        found: list[Attempt] = []
        while True:
            try:
                packet, (_, protocol, direction, *_) = self._socket.recvfrom(65_535)
            except BlockingIOError:
                return found
            attempt = _syn(packet, protocol) if direction == _OUTGOING else None
            if attempt is not None:
                found.append(attempt)

    def close(self) -> None:
        """Listens no more."""
        self._socket.close()


def connects() -> int:
    """Connections that TCP of this namespace has tried to open since it was made, by the kernel's own count."""
    lines = [line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines() if line.startswith("Tcp:")]
    return int(dict(zip(*lines, strict=True))["ActiveOpens"])


def _make_every_address_local(family: int) -> None:
    loopback = struct.pack("=HHI", 8, _OUTPUT_INTERFACE, socket.if_nametoindex("lo"))
    route = struct.pack("=8BI", family, 0, 0, 0, _TABLE_LOCAL, _BY_BOOT, _SCOPE_HOST, _TYPE_LOCAL, 0) + loopback
    header = struct.pack("=IHHII", 16 + len(route), _RTM_NEWROUTE, _REQUEST_ACK_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.send(header + route)
        (refused,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    if refused and -refused != errno.EAFNOSUPPORT:
        raise OSError(-refused, os.strerror(-refused))


def _syn(packet: bytes, protocol: int) -> Attempt | None:
    address: IPv4Address | IPv6Address
    if protocol == _ETHERTYPE_IPV4 and packet[9] == _TCP:
        address, tcp = IPv4Address(packet[16:20]), packet[(packet[0] & 0x0F) * 4 :]
    elif protocol == _ETHERTYPE_IPV6 and packet[6] == _TCP:
        address, tcp = IPv6Address(packet[24:40]), packet[40:]
    else:
        return None
    if tcp[13] & (_SYN | _ACK) != _SYN:
        return None
    return Attempt(str(address), int.from_bytes(tcp[2:4], "big"))
