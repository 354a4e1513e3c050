"""Messages between two processes: round trips, cut and forged frames, a side that is gone or does not read."""

import json
import socket
import struct

import numpy as np
import pytest

from hybrid_jax.real import wire
from hybrid_jax.real.wire import Channel, WireError

ARRAYS = {"obs": np.arange(6, dtype=np.float32).reshape(2, 3), "seed": np.array(7, np.int64), "none": np.zeros((0, 4))}


@pytest.fixture
def ends():
    pair = socket.socketpair()
    channels = [Channel(end) for end in pair]
    yield channels
    for channel in channels:
        channel.close()


def test_messages_arrive_whole_and_in_order(ends):
    ours, theirs = ends
    for n in range(50):
        ours.send({"op": "step", "n": n, "text": "größer"}, ARRAYS)
    for n in range(50):
        message, arrays = theirs.receive()
        assert message == {"op": "step", "n": n, "text": "größer"}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype and arrays[name].flags.writeable
    assert theirs.receive() is None


def test_a_message_that_comes_byte_by_byte_is_waited_for():
    near, far = socket.socketpair()
    channel, frame = Channel(far), wire.pack({"a": 1}, ARRAYS)
    for i in range(len(frame)):
        assert channel.receive() is None
        near.send(frame[i : i + 1])
    assert channel.receive()[0] == {"a": 1}
    near.close()
    with pytest.raises(WireError, match="has closed the line"):
        channel.receive()
    channel.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"not json",
        b'{"arrays": [["x", "f4", [2]]]}',  # promises bytes that do not come
        b'{"arrays": [["x", "O", [0]]]}',
        b'{"arrays": [["x", "f4", [-1]]]}',
        b'{"arrays": [["x", "f4", [1099511627776, 1099511627776]]]}',
        b'{"arrays": [["x", "f4", ["a"]]]}',
        b'{"arrays": 3}',
        b"[" * 100_000,
    ],
)
def test_forged_messages_are_refused(body):
    with pytest.raises(WireError, match="not a message"):
        wire.unpack(struct.pack("<I", len(body)) + body)


def test_every_cut_of_a_message_is_refused():
    frame = wire.pack({"a": 1}, ARRAYS)[4:]
    for cut in range(len(frame)):
        with pytest.raises(WireError):
            wire.unpack(frame[:cut])


@pytest.mark.parametrize("size", [0, 3, wire.LARGEST + 1, 2**32 - 1])
def test_a_frame_of_impossible_size_is_refused_before_it_is_read(size):
    near, far = socket.socketpair()
    near.send(struct.pack("<I", size))
    channel = Channel(far)
    with pytest.raises(WireError, match="claims"):
        channel.receive(1.0)
    near.close()
    channel.close()


def test_what_cannot_be_said_is_refused_here(ends):
    with pytest.raises(ValueError, match="messages carry f4, f8, i8, u1"):
        ends[0].send({}, {"x": np.array(["a"])})
    with pytest.raises(ValueError, match="over the limit"):
        ends[0].send({}, {"x": np.zeros(wire.LARGEST // 4, np.float32)})
    with pytest.raises(ValueError, match="not JSON compliant"):
        ends[0].send({"x": float("nan")})
    assert ends[1].receive() is None


def test_a_side_that_does_not_read_is_given_up(ends):
    with pytest.raises(WireError, match=r"reads nothing for 0\.1 s"):
        for _ in range(100):
            ends[0].send({}, {"x": np.zeros(100_000, np.float32)}, timeout=0.1)


def test_the_format_is_as_documented():
    frame = wire.pack({"a": 1}, {"x": np.array([1.5], np.float32)})
    size, length = struct.unpack_from("<II", frame)
    assert size == len(frame) - 4
    assert json.loads(frame[8 : 8 + length]) == {"a": 1, "arrays": [["x", "f4", [1]]]}
    assert frame[8 + length :] == struct.pack("<f", 1.5)
