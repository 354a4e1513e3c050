"""Messages between the learner and the robot's process: JSON and raw arrays in length-prefixed frames, no pickle.

    bytes of all that follows u32 | bytes of the JSON u32 | JSON | arrays, one after the other

The JSON's `arrays` says name, type and shape of each; every claim is checked before anything is allocated.
"""

import json
import select
import socket
import struct
import time
from typing import Any

import numpy as np

LARGEST = 16 << 20  # bytes of a frame
_SIZES = struct.Struct("<II")
_TYPES = {"f4": np.dtype("<f4"), "f8": np.dtype("<f8"), "i8": np.dtype("<i8"), "u1": np.dtype("u1")}


class WireError(Exception):
    """The other side closed the line, or sent what is no message."""


def pack(message: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> bytes:
    """One frame. Raises ValueError for an array of a type that is not on the list."""
    kinds, body = [], []
    for name, value in (arrays or {}).items():
        array = np.asarray(value)
        kind = array.dtype.str.lstrip("<|=")
        if kind not in _TYPES:
            raise ValueError(f"{name} has type {array.dtype}; messages carry {', '.join(_TYPES)}")
        kinds.append([name, kind, list(array.shape)])
        body.append(np.ascontiguousarray(array, _TYPES[kind]).tobytes())
    text = json.dumps(message | {"arrays": kinds}, allow_nan=False).encode()
    size = 4 + len(text) + sum(map(len, body))
    if size > LARGEST:
        raise ValueError(f"a message of {size:,} bytes is over the limit of {LARGEST:,}")
    return b"".join([_SIZES.pack(size, len(text)), text, *body])


def unpack(frame: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The inverse of `pack`, without the first four bytes. Raises WireError for anything else."""
    try:
        (length,) = struct.unpack_from("<I", frame)
        message = json.loads(frame[4 : 4 + length])
        kinds, offset, arrays = message.pop("arrays"), 4 + length, {}
        for name, kind, shape in kinds:
            count = int(np.prod(shape, dtype=np.int64)) if all(size >= 0 for size in shape) else -1
            arrays[str(name)] = np.frombuffer(frame, _TYPES[kind], count, offset).reshape(shape).copy()
            offset += count * _TYPES[kind].itemsize
        if offset != len(frame) or not isinstance(message, dict):
            raise ValueError("the sizes do not add up")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise WireError(f"not a message: {error}") from error
    return message, arrays


class Channel:
    """One end of a stream socket."""

    def __init__(self, line: socket.socket):
        self._line, self._buffer = line, bytearray()
        self._unsent = bytearray()  # posted, and not yet taken
        line.setblocking(False)

    def fileno(self) -> int:
        return self._line.fileno()

    def send(self, message: dict[str, Any], arrays: dict[str, np.ndarray] | None = None, timeout: float = 5.0) -> None:
        """Sends a message. Raises WireError where the other side is gone or does not read for `timeout` seconds."""
        view, deadline = memoryview(bytes(self._unsent) + pack(message, arrays)), time.monotonic() + timeout
        self._unsent.clear()
        while view:
            try:
                view = view[self._line.send(view) :]
            except BlockingIOError:
                if not select.select([], [self._line], [], max(0.0, deadline - time.monotonic()))[1]:
                    raise WireError(f"the other side reads nothing for {timeout} s") from None
            except OSError as error:
                raise WireError(f"the other side is gone ({error.strerror})") from error

    def post(
        self, message: dict[str, Any], arrays: dict[str, np.ndarray] | None = None, droppable: bool = False
    ) -> bool:
        """Sends a message without ever waiting: what the other side does not take now goes with a later `flush`.

        droppable: while earlier messages wait, this one is left out (False). Raises WireError where the other side
        is gone, or has left `LARGEST` bytes untaken.
        """
        self.flush()
        if droppable and self._unsent:
            return False
        self._unsent += pack(message, arrays)
        self.flush()
        if len(self._unsent) > LARGEST:
            raise WireError(f"the other side has left {len(self._unsent):,} bytes untaken")
        return True

    def flush(self) -> None:
        """Sends as much of what was posted as is taken without waiting."""
        try:
            while self._unsent:
                del self._unsent[: self._line.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as error:
            raise WireError(f"the other side is gone ({error.strerror})") from error

    def receive(self, timeout: float | None = 0.0) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The next message, or None if none is whole within `timeout` seconds (None: waits for ever).

        Raises WireError where the other side is gone or sent no message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (frame := self._frame()) is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._line], [], [], left)[0]:
                return None
            try:
                data = self._line.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError as error:
                raise WireError(f"the other side is gone ({error.strerror})") from error
            if not data:
                raise WireError("the other side has closed the line")
            self._buffer += data
        return unpack(frame)

    def _frame(self) -> bytes | None:
        if len(self._buffer) < 4:
            return None
        (size,) = struct.unpack_from("<I", self._buffer)
        if not 4 <= size <= LARGEST:
            raise WireError(f"a frame claims {size:,} bytes; the limit is {LARGEST:,}")
        if len(self._buffer) < 4 + size:
            return None
        frame = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return frame

    def close(self) -> None:
        self._line.close()
