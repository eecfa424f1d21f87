"""A listener between a node and its server that keeps every byte, and what the bytes are as HTTP/2.

For an audit on one machine, without TLS: what would be encrypted on a network is seen as it is inside.

>>> frames = b"\\0\\0\\3\\0\\1\\0\\0\\0\\1abc" + b"\\0\\0\\1\\1\\0\\0\\0\\0\\1x"
>>> contents(_PREFACE + frames)
[b'abc']
"""

import contextlib
import re
import socket
import struct
import threading
from collections import defaultdict
from types import TracebackType
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _PADDED, _HEAD = 0, 0x8, 9
_CHUNK = 65536
_ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+),\), \} *\n", re.DOTALL
)


class Tap:
    """Listens at `port`, passes all on to ``port_beyond`` of this machine and back, and keeps it."""

    def __init__(self, port_beyond: int) -> None:
        self._beyond = port_beyond
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.sent: list[bytearray] = []  # By the node, a connection each.
        self.received: list[bytearray] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._beyond))
            except OSError:  # Closed, or the server is not there yet: the node tries again.
                if self._listener.fileno() < 0:
                    return
                here.close()
                continue
            self._open += [here, there]
            for one, other, kept in ((here, there, self.sent), (there, here, self.received)):
                kept.append(bytearray())
                threading.Thread(target=_pass_on, args=(one, other, kept[-1]), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for one in self._open:
            one.close()


def _pass_on(one: socket.socket, other: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):  # One of the two has gone.
        while part := one.recv(_CHUNK):
            kept += part
            other.sendall(part)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def contents(sent: bytes) -> list[bytes]:
    """Return what a node sent over a connection without what frames it.

    Over HTTP/2 that is each stream joined over its frames (RFC 9113, §4.1); over HTTP/1.1 it is whole as it stands.
    """
    if not sent.startswith(_PREFACE):
        return [sent]
    at, joined = len(_PREFACE), defaultdict[int, bytearray](bytearray)
    while at + _HEAD <= len(sent):
        length = int.from_bytes(sent[at : at + 3], "big")
        kind, flags, number = struct.unpack_from(">BBI", sent, at + 3)
        content = sent[at + _HEAD : at + _HEAD + length]
        if kind == _DATA:
            if flags & _PADDED and content:
                content = content[1 : len(content) - content[0]]
            joined[number & 0x7FFFFFFF] += content
        at += _HEAD + length
    return [bytes(data) for data in joined.values()]


def arrays(data: bytes) -> list[bytes]:
    """Return the numbers of each float32 array of one dimension in ``data``, as `numpy.save` writes it."""
    found = []
    for match in _ARRAY.finditer(data):
        size = 4 * int(match[1])
        found.append(data[match.end() : match.end() + size])
    return found
