"""Reads a journal as it grows: the learner's side, which gets rows by their numbers and by nothing else."""

from pathlib import Path

from hybrid_jax.real import record as records
from hybrid_jax.real import segments
from hybrid_jax.real.record import Record
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.segments import JournalError


class Follower:
    """Takes records in order from a journal that another process may be writing."""

    def __init__(self, folder: Path, schema: Schema, start: int = 0):
        """start: number of the first record to take. Raises JournalError where the journal does not reach it."""
        self._folder, self._schema = Path(folder), schema
        self._path: Path | None = None
        self._offset, self._next = 0, 0
        self.take(start)

    @property
    def watermark(self) -> int:
        """Number of the next record: all before it have been taken."""
        return self._next

    def take(self, until: int) -> list[Record]:
        """The records from the watermark up to number `until`, which is not among them.

        Raises JournalError where one of them is not on disk, whole: what was never written cannot be learned from.
        Then none of them counts as taken.
        """
        before = self._path, self._offset, self._next
        taken: list[Record] = []
        while self._next < until:
            found = self._read(until)
            if not found:
                missing = self._next
                self._path, self._offset, self._next = before
                raise JournalError(f"{self._folder}: record {missing} is not on disk, asked for up to {until}")
            taken += found
        return taken

    def _read(self, until: int) -> list[Record]:
        """Records from the open segment's offset on; goes to the next segment where this one has ended."""
        if self._path is None and not self._open(self._next):
            return []
        assert self._path is not None
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        found, offset = [], 0
        while self._next < until and (each := records.decode(data, offset, self._schema)) is not None:
            if each[0].sequence != self._next:
                raise JournalError(f"{self._path}: record {each[0].sequence} stands where {self._next} is due")
            found.append(each[0])
            offset, self._next = each[1], self._next + 1
        self._offset += offset
        if not found and self._open(self._next):
            return self._read(until)
        return found

    def _open(self, first: int) -> bool:
        path = self._folder / segments.segment_name(first)
        if not path.exists() or path == self._path:
            return False
        start = segments.first_offset(path, self._schema, first)
        if start is None:
            return False
        self._path, self._offset = path, start
        return True
