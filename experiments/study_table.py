"""The rows of a study on disk: one line a finished cell in a CSV that several processes append to."""

import csv
import fcntl
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from experiments.study_grid import Cell, Study, experiment_of, grid, programs, settings_of
from hybrid_jax.config import ConfigError


class Row(NamedTuple):
    """A finished cell."""

    study: str
    task: str
    gap: str
    data: str
    share: str
    method: str
    seed: int
    updates: int
    real_return: float  # mean over the test episodes
    real_std: float  # over the test episodes
    falls: int
    episodes: int
    sim_return: float  # NaN for a method that learns in no simulator
    behaviour_return: float  # of the log; NaN for a method that reads none, and for a log without a whole episode
    normalised: float  # real_return where the task has constants, else NaN
    wall_seconds: float  # with compilation; of seeds in one program each has its part
    device: str
    commit: str
    versions: str
    settings: str  # tells two configurations apart

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.gap, self.data, self.share, self.method, self.seed)


_TYPES = Row.__annotations__


class Table:
    """The file; `told` holds what was mended in it, a sentence each."""

    def __init__(self, path: Path):
        self.path = path
        self.told: list[str] = []
        self.writing = threading.Lock()  # held while a line is written

    def read(self) -> list[Row]:
        """All whole rows. Raises ConfigError where a row is not of this form."""
        if not self.path.exists():
            return []
        with self._locked() as descriptor:
            text = _content(descriptor).decode(errors="replace")
        header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        if text and header != list(Row._fields):
            raise ConfigError(f"{self.path} has other columns than a study's table; move it away or give another --out")
        return [self._row(cells, number) for number, cells in enumerate(lines, 2)]

    def append(self, row: Row) -> None:
        """Adds one line, whole and on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.writing, self._locked() as descriptor:
            line = _line(row)
            if os.fstat(descriptor).st_size == 0:
                line = _line(Row._fields) + line
            os.lseek(descriptor, 0, os.SEEK_END)
            left = line.encode()
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
                self.told.append(f"{self.path}: its last line was cut ({torn}...) and is removed; its cell runs again")
            yield descriptor
        finally:
            os.close(descriptor)

    def _row(self, cells: list[str], number: int) -> Row:
        try:
            values = [_TYPES[name](cell) for name, cell in zip(Row._fields, cells, strict=True)]
        except ValueError as error:
            raise ConfigError(f"{self.path} line {number} is no row of a study ({error}); mend or remove it") from error
        return Row(*values)


def finished(study: Study, rows: list[Row]) -> set[Cell]:
    """The study's cells that were run with the settings, the budget and the log that it gives them today."""
    known = {cell for program in programs(study, grid(study)) for cell in program}
    return {row.cell for row in rows if row.cell in known and _as_today(study, row)}


def other_settings(study: Study, rows: list[Row]) -> list[Row]:
    """Rows of the study's cells that count no more: run with other settings, or on another log."""
    known = {cell for program in programs(study, grid(study)) for cell in program}
    return [row for row in rows if row.cell in known and not _as_today(study, row)]


def _as_today(study: Study, row: Row) -> bool:
    return row.settings == settings_of(experiment_of(study, row.cell))


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _line(cells) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([f"{c:.6g}" if isinstance(c, float) else c for c in cells])
    return text.getvalue()
