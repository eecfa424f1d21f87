"""A tap passes all on and keeps it; what framed it is taken off, and arrays are found as they were saved."""

from __future__ import annotations

import io
import socket
import threading

import numpy as np
import pytest

from federation.audit.tap import _PREFACE, Tap, arrays, contents


def frame(kind: int, stream: int, content: bytes, *, padding: int | None = None) -> bytes:
    if padding is not None:
        content = bytes((padding,)) + content + bytes(padding)
    flags = 0 if padding is None else 8
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content


def saved(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_streams_are_joined_over_their_frames_and_padding_is_taken_off() -> None:
    sent = b"".join(
        [
            _PREFACE,
            frame(4, 0, b"settings"),
            frame(1, 1, b"headers"),
            frame(0, 1, b"ab"),
            frame(0, 3, b"xy", padding=5),
            frame(0, 1, b"cd", padding=0),
            frame(0, 3, b""),
            b"\0\0",  # Cut off.
        ]
    )
    assert sorted(contents(sent)) == [b"abcd", b"xy"]
    assert contents(b"POST / HTTP/1.1") == [b"POST / HTTP/1.1"]


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_arrays_of_float32_are_found_wherever_they_lie_and_no_others(count: int) -> None:
    values = np.arange(count, dtype=np.float32)
    data = b"before" + saved(values) + b"between" + saved(values.astype(np.float64)) + saved(values + 1)
    assert arrays(data) == [values.tobytes(), (values + 1).tobytes()]
    assert arrays(saved(values[None])) == []


def test_a_tap_passes_both_ways_and_keeps_all() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        there, _ = server.accept()
        with there:
            there.sendall(b"heard " + there.recv(100))

    thread = threading.Thread(target=answer)
    thread.start()
    with server, Tap(server.getsockname()[1]) as tap:
        with socket.create_connection(("127.0.0.1", tap.port)) as node:
            node.sendall(b"a question")
            heard = b""
            while part := node.recv(100):
                heard += part
        thread.join()
        assert heard == b"heard a question"
        assert [bytes(one) for one in tap.sent] == [b"a question"]
        assert [bytes(one) for one in tap.received] == [heard]
