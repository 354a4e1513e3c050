"""The write-ahead log of a real environment: every step is on disk before anything may learn from it.

One folder per environment holds numbered segments, appended to by one writer (flock). A segment begins with its
schema and the sequence number of its first record. `open` recovers the longest valid prefix of the newest segment;
what follows it is moved into a file beside, never deleted.
"""

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from hybrid_jax.real import record as records
from hybrid_jax.real.record import Record
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.segments import JournalError, Scan, scan_segment, segment_head, segment_name, segments

SEGMENT_BYTES = 64 << 20


@dataclass(frozen=True)
class Recovery:
    """What opening a journal found."""

    kept: int  # records of the valid prefix, over all segments
    torn_bytes: int  # moved aside
    torn_file: Path | None
    last: Record | None  # of the valid prefix
    stranded: int  # whole, undamaged records inside what was moved aside: damage in the middle of a file


class Journal:
    """The one writer of a journal."""

    def __init__(self, folder: Path, schema: Schema, segment_bytes: int = SEGMENT_BYTES):
        """Opens or begins a journal; `recovery` tells what was found.

        Raises JournalError where another process writes it, where it belongs to another robot, or where a segment
        that is not the newest is damaged.
        """
        self.folder, self.schema, self._segment_bytes = Path(folder), schema, segment_bytes
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sync_folder(self.folder.parent)
        self._lock = _lock(self.folder)
        self._file: int | None = None
        self._failed: str | None = None
        try:
            self.recovery = self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def next_sequence(self) -> int:
        """The sequence number that the next record must carry: all before it are on disk."""
        return self._next

    def append(self, record: Record) -> int:
        """Writes one record and waits until it is on disk; returns its sequence number.

        Raises JournalError where the disk refuses; the record then does not count, and nothing more can be appended
        before the journal is opened anew. Raises ValueError for a record out of sequence or of another form.
        """
        if self._failed is not None:
            raise JournalError(f"{self.folder}: writing failed before ({self._failed}); open the journal anew")
        if record.sequence != self._next:
            raise ValueError(f"the next record of {self.folder} is number {self._next}, not {record.sequence}")
        data = records.encode(record, self.schema)
        try:
            if self._file is None or self._size + len(data) > self._segment_bytes:
                self._begin_segment()
            self._write(data)
            os.fdatasync(self._file)
        except OSError as error:
            self._failed = error.strerror or str(error)
            self._cut_to_acknowledged()
            free = os.statvfs(self.folder)
            raise JournalError(
                f"{self.folder}: the real step {record.sequence} cannot be kept ({self._failed});"
                f" {free.f_bavail * free.f_frsize / 2**30:.1f} GiB are free there"
            ) from error
        self._size += len(data)
        self._next += 1
        return record.sequence

    def close(self) -> None:
        """Gives the journal free for another writer."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def _cut_to_acknowledged(self) -> None:
        """After a failed write: what was not acknowledged shall not be found as if it were on disk."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # recovery finds the valid prefix in any case
            os.ftruncate(self._file, self._size)
        os.close(self._file)
        self._file = None

    def _begin_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        path = self.folder / segment_name(self._next)
        self._size = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        head = segment_head(self.schema, self._next)
        self._write(head)
        os.fsync(self._file)
        _sync_folder(self.folder)
        self._size = len(head)

    def _recover(self) -> Recovery:
        self._next, self._size, last = 0, 0, None
        paths = segments(self.folder)
        for path in paths[:-1]:
            scan = scan_segment(path, self.schema, self._next)
            if scan.valid_bytes != scan.size:
                raise JournalError(
                    f"{path}: damaged at byte {scan.valid_bytes} of {scan.size}, and later segments follow;"
                    " copy the folder, then see `hybrid-jax journal check`"
                )
            self._next, last = self._next + scan.count, scan.last or last
        if not paths:
            return Recovery(0, 0, None, None, 0)
        newest = paths[-1]
        scan = scan_segment(newest, self.schema, self._next)
        self._next, last = self._next + scan.count, scan.last or last
        torn, stranded = None, 0
        if scan.valid_bytes != scan.size:
            torn, stranded = _set_aside(newest, scan, self.schema)
        if scan.valid_bytes == 0:  # not even the head of the segment was whole
            newest.unlink()
            _sync_folder(self.folder)
        else:
            self._file = os.open(newest, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = scan.valid_bytes
        return Recovery(self._next, scan.size - scan.valid_bytes, torn, last, stranded)


def _set_aside(path: Path, scan: Scan, schema: Schema) -> tuple[Path, int]:
    """Moves what follows the valid prefix into a file beside; counts the whole records in it."""
    tail = path.read_bytes()[scan.valid_bytes :]
    number = 0
    while (aside := path.with_name(f"{path.stem}-{scan.valid_bytes}-{number}.torn")).exists():
        number += 1
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(tail)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)
    with path.open("r+b") as file:
        file.truncate(scan.valid_bytes)
        os.fsync(file.fileno())
    starts = range(len(tail) - records.OVERHEAD + 1)
    mark = struct.pack("<I", records.MAGIC)
    stranded = sum(tail.startswith(mark, i) and records.decode(tail, i, schema) is not None for i in starts)
    return aside, stranded


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(descriptor, 100).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalError(f"{folder} is being written by process {owner}; one journal has one writer") from error
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
