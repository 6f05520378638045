"""When connections were opened to a port of this machine, by the kernel's own clock."""

import asyncio
import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# Sources: packet(7), socket(7), linux/filter.h and bpf(2)'s classic instructions, RFC 9293 for the flags of TCP.
_IPV4 = 0x0800
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_TCP, _SYN_ACK = 6, 0x12
_LOAD_BYTE, _LOAD_HEADER_SIZE, _LOAD_BYTE_OF_TCP, _LOAD_PORT = 0x30, 0xB1, 0x50, 0x48
_AND, _JUMP_UNLESS, _RETURN = 0x54, 0x15, 0x06
_TO_END = 9
_BUFFER_BYTES = 16 * 1024 * 1024
_TIMESPEC = struct.Struct("=qq")


@contextmanager
def connects_to(port: int) -> Iterator[list[float]]:
    """The times (Unix, seconds) of connections that a server on 127.0.0.1 has taken while the block runs.

    Raises:
        PermissionError: the process may not see packets (CAP_NET_RAW).
    """
    seen: list[float] = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_IPV4)) as packets:
        _attach(packets, port)
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        packets.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        packets.bind(("lo", _IPV4))
        packets.setblocking(False)

        def read() -> None:
            try:
                while True:
                    _, ((_, _, stamp),), *_ = packets.recvmsg(64, 128)
                    seconds, nanoseconds = _TIMESPEC.unpack(stamp)
                    seen.append(seconds + nanoseconds / 1e9)
            except BlockingIOError:
                return

        loop.add_reader(packets, read)
        try:
            yield seen
        finally:
            loop.remove_reader(packets)


def _attach(packets: socket.socket, port: int) -> None:
    """Lets through only what begins a connection that was taken: other packets are many."""

    def unless(value: int, at: int) -> tuple[int, int, int, int]:
        return (_JUMP_UNLESS, 0, _TO_END - at - 1, value)

    program = (
        (_LOAD_BYTE, 0, 0, 9),
        unless(_TCP, 1),
        (_LOAD_HEADER_SIZE, 0, 0, 0),
        (_LOAD_BYTE_OF_TCP, 0, 0, 13),
        (_AND, 0, 0, _SYN_ACK),
        unless(_SYN_ACK, 5),
        (_LOAD_PORT, 0, 0, 0),
        unless(port, 7),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
