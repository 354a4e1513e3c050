"""The files of a journal: each begins with its schema and the number of its first record, then records follow."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hybrid_jax.real import record as records
from hybrid_jax.real import schema as schemas
from hybrid_jax.real.record import Record
from hybrid_jax.real.schema import Schema

_MAGIC = b"HJSEG001"
_HEAD = struct.Struct("<8sQI")  # magic, number of the first record, bytes of the schema


class JournalError(Exception):
    """The journal cannot be used as asked: one sentence with file, cause and cure."""


@dataclass(frozen=True)
class Scan:
    """One segment's longest valid prefix."""

    count: int  # records
    last: Record | None
    valid_bytes: int
    size: int


def scan_segment(path: Path, schema: Schema, first: int) -> Scan:
    """Reads a segment to the end of its valid prefix. Raises JournalError where it is another robot's."""
    data = path.read_bytes()
    start = first_offset(path, schema, first)
    if start is None:
        return Scan(0, None, 0, len(data))
    count, offset, last = 0, start, None
    for record, end in _records(data, start, schema, first):
        count, last, offset = count + 1, record, end
    return Scan(count, last, offset, len(data))


def _records(data: bytes, offset: int, schema: Schema, first: int) -> Iterator[tuple[Record, int]]:
    """(record, where it ends) from number `first` on, to the end of the valid prefix."""
    while (found := records.decode(data, offset, schema)) is not None and found[0].sequence == first:
        yield found
        first, offset = first + 1, found[1]


def read(folder: Path, start: int = 0) -> Iterator[Record]:
    """All records from number `start` on, in order, to the end of the valid prefix; beside a writer as well."""
    first = 0
    for path in segments(folder):
        data = path.read_bytes()
        schema = read_schema(path)
        offset = None if schema is None else first_offset(path, schema, first)
        if schema is None or offset is None:
            return
        for record, end in _records(data, offset, schema, first):
            if record.sequence >= start:
                yield record
            first, offset = record.sequence + 1, end
        if offset != len(data):
            return


def read_schema(path: Path) -> Schema | None:
    """The schema in a segment's head; None where the head is not whole."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(_MAGIC):
            return None
        size = _HEAD.unpack(head)[2]
        if size > records.LARGEST:
            return None
        rest = file.read(size + 4)
    if len(rest) < size + 4 or zlib.crc32(head + rest[:size]) != struct.unpack("<I", rest[size:])[0]:
        return None
    return schemas.from_json(rest[:size].decode())


def segments(folder: Path) -> list[Path]:
    """The segment files in order."""
    return sorted(Path(folder).glob("*.journal"))


def segment_name(first: int) -> str:
    return f"{first:012d}.journal"


def segment_head(schema: Schema, first: int) -> bytes:
    text = schema.to_json().encode()
    body = _HEAD.pack(_MAGIC, first, len(text)) + text
    return body + struct.pack("<I", zlib.crc32(body))


def first_offset(path: Path, schema: Schema, first: int) -> int | None:
    """Where a segment's first record, number `first`, begins; None where the head is not whole.

    Raises JournalError where it is another robot's, or begins with another number.
    """
    theirs = read_schema(path)
    if theirs is None:
        return None
    if theirs != schema:
        changed = "; ".join(schemas.difference(schema, theirs))
        raise JournalError(f"{path} is another robot's journal ({changed}); give this robot a folder of its own")
    with path.open("rb") as file:
        begins = _HEAD.unpack(file.read(_HEAD.size))[1]
    if begins != first:
        raise JournalError(f"{path} begins with record {begins}, not {first}: a segment is missing")
    return len(segment_head(schema, first))
