"""Rows on disk: a CSV that several processes append to, each line whole or not there."""

import csv
import fcntl
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from hybrid_jax.config import ConfigError

Row = TypeVar("Row", bound=NamedTuple)


class Table(Generic[Row]):
    """The file of rows of one NamedTuple of numbers and texts; `told` holds what was mended in it, a sentence each."""

    def __init__(self, path: Path, row: type[Row], digits: int = 6):
        """digits: that a float is written with."""
        self.path = path
        self.told: list[str] = []
        self.writing = threading.Lock()  # held while lines are written
        self._row, self._digits = row, digits

    def read(self) -> list[Row]:
        """All whole rows. Raises ConfigError where a row is not of this form."""
        if not self.path.exists():
            return []
        with self._locked() as descriptor:
            text = _content(descriptor).decode(errors="replace")
        header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        if text and header != list(self._row._fields):
            raise ConfigError(f"{self.path} has other columns than this study's; move it away or give another --out")
        return [self._parsed(cells, number) for number, cells in enumerate(lines, 2)]

    def append(self, *rows: Row) -> None:
        """Adds lines, whole and on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.writing, self._locked() as descriptor:
            first = [self._row._fields] if os.fstat(descriptor).st_size == 0 else []
            os.lseek(descriptor, 0, os.SEEK_END)
            left = self._lines([*first, *rows]).encode()
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file under an exclusive lock, its last line whole: what a crash cut is removed, and told."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = _content(descriptor)
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(descriptor, whole)
                torn = content[whole : whole + 60].decode(errors="replace")
                self.told.append(
                    f"{self.path}: its last line was cut ({torn}...), it is removed and its run open again"
                )
            yield descriptor
        finally:
            os.close(descriptor)

    def _parsed(self, cells: list[str], number: int) -> Row:
        kinds = self._row.__annotations__
        try:
            values = [kinds[name](cell) for name, cell in zip(self._row._fields, cells, strict=True)]
        except ValueError as error:
            raise ConfigError(f"{self.path} line {number} is no row of a study ({error}); mend or remove it") from error
        return self._row(*values)

    def _lines(self, rows: list) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [f"{x:.{self._digits}g}" if isinstance(x, float) else x for x in row] for row in rows
        )
        return text.getvalue()


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
