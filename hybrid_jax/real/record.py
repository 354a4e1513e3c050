"""One real step as bytes: fixed layout, little-endian, with a checksum over everything.

    magic u32 | length u32 | header | payload | crc32 u32

`length` counts header and payload; the checksum covers length, header and payload. A transition's payload is
float32: obs [O], asked action [A], sent action [A], reward, next_obs [O]. A fault's payload is UTF-8 text for
people: it is never learned from.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np

from hybrid_jax.real.schema import Schema

MAGIC = 0x31524A48  # "HJR1"
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<8sQBBHIIQdd")  # schema, sequence, kind, 0, flags, episode, step, policy, monotonic, wall
_CRC = struct.Struct("<I")
LARGEST = 1 << 20  # bytes of header and payload: a longer claim is damage
OVERHEAD = _FRAME.size + _HEADER.size + _CRC.size


class Kind(IntEnum):
    """What a record holds."""

    TRANSITION = 1
    FAULT = 2


class Flag(IntFlag):
    """What must be known of a step beside its numbers."""

    TERMINATED = 1  # the task ended it
    TRUNCATED = 2  # a clock, an operator or a fault ended the episode
    INTERVENED = 4  # the sent action was an operator's
    LATE = 8  # the answer came after its period
    GAP = 16  # time or steps are missing before this one
    LIMITED = 32  # the gate changed the asked action
    FROZEN = 64  # the observation has not changed for many steps
    GREEDY = 128  # the policy was judged: its mode, without exploration


COUNTED = {
    "rows": None,
    "late": Flag.LATE,
    "limited": Flag.LIMITED,
    "intervened": Flag.INTERVENED,
    "frozen": Flag.FROZEN,
}
"""What is counted of a robot's steps: all of them, and those with a flag."""

SKIPPED = Flag.GAP | Flag.FROZEN
"""Rows with these flags stay in the journal and are not learned: they are no true steps of `dt` seconds."""


@dataclass(frozen=True, eq=False)
class Transition:
    """One real step as it was executed."""

    sequence: int  # counts every record of the journal from 0, without a hole
    episode: int
    step: int  # within the episode, from 0
    obs: np.ndarray  # [O] float32
    asked: np.ndarray  # [A] float32: the policy's action
    sent: np.ndarray  # [A] float32: what the robot was given
    reward: float
    next_obs: np.ndarray  # [O] float32
    flags: Flag = Flag(0)
    policy: int = 0  # updates behind the policy that chose the action
    monotonic: float = 0.0  # [s]
    wall: float = 0.0  # [s] since the epoch; a label only


@dataclass(frozen=True)
class Fault:
    """Something went wrong; for people, never learned from."""

    sequence: int
    episode: int
    step: int
    text: str
    flags: Flag = Flag(0)
    monotonic: float = 0.0
    wall: float = 0.0


Record = Transition | Fault


def encode(record: Record, schema: Schema) -> bytes:
    """The record's bytes. Raises ValueError for arrays that are not of the schema's form."""
    if isinstance(record, Transition):
        kind, policy, payload = Kind.TRANSITION, record.policy, _payload(record, schema)
    else:
        kind, policy, payload = Kind.FAULT, 0, record.text.encode()[: LARGEST - _HEADER.size]
    header = _HEADER.pack(
        schema.digest(),
        record.sequence,
        kind,
        0,
        record.flags,
        record.episode,
        record.step,
        policy,
        record.monotonic,
        record.wall,
    )
    length = struct.pack("<I", len(header) + len(payload))
    checksum = zlib.crc32(length + header + payload)
    return struct.pack("<I", MAGIC) + length + header + payload + _CRC.pack(checksum)


def _payload(record: Transition, schema: Schema) -> bytes:
    parts = []
    for name, size in _columns(schema):
        value = np.asarray(getattr(record, name))
        if value.shape != ((size,) if name != "reward" else ()) or value.dtype.kind != "f":
            raise ValueError(f"{name} of a real step has shape {value.shape} and type {value.dtype}, not {size} floats")
        parts.append(np.atleast_1d(value).astype("<f4").tobytes())
    return b"".join(parts)


def _columns(schema: Schema) -> tuple[tuple[str, int], ...]:
    obs, action = schema.obs_size, schema.action_size
    return (("obs", obs), ("asked", action), ("sent", action), ("reward", 1), ("next_obs", obs))


def decode(data: bytes | memoryview, offset: int, schema: Schema) -> tuple[Record, int] | None:
    """The record at `offset` and where it ends; None where no whole, undamaged record of this schema stands."""
    data = memoryview(data)
    if len(data) < offset + OVERHEAD:
        return None
    magic, length = _FRAME.unpack_from(data, offset)
    start, end = offset + _FRAME.size, offset + _FRAME.size + length
    if magic != MAGIC or not _HEADER.size <= length <= LARGEST or len(data) < end + _CRC.size:
        return None
    if zlib.crc32(data[offset + 4 : end]) != _CRC.unpack_from(data, end)[0]:
        return None
    digest, sequence, kind, _, flags, episode, step, policy, monotonic, wall = _HEADER.unpack_from(data, start)
    payload, common = data[start + _HEADER.size : end], {"monotonic": monotonic, "wall": wall, "flags": Flag(flags)}
    if digest != schema.digest():
        return None
    if kind == Kind.FAULT:
        return Fault(sequence, episode, step, str(payload, "utf-8", "replace"), **common), end + _CRC.size
    columns = _columns(schema)
    if kind != Kind.TRANSITION or len(payload) != 4 * sum(size for _, size in columns):
        return None
    bounds = np.cumsum([size for _, size in columns])[:-1]
    values = dict(zip((name for name, _ in columns), np.split(np.frombuffer(payload, "<f4"), bounds), strict=True))
    reward = float(values.pop("reward")[0])
    rows = {name: np.array(value, np.float32) for name, value in values.items()}
    return Transition(sequence, episode, step, reward=reward, policy=policy, **rows, **common), end + _CRC.size
