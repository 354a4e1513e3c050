"""The figures of a run: RunLog keeps them on disk, Progress shows them while they come.

`metrics.jsonl` is the truth, one object a line, on disk before `write` returns to the loop; `metrics.csv` is the
same as a table and can be made again from it; TensorBoard gets a copy.
"""

import csv
import io
import json
import math
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

_RESERVED = ("step", "nonfinite")


def write_atomically(path: Path, text: str) -> None:
    """Puts a whole text in place: after a crash the old file or the new one is there, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class RunLog:
    """Writes one record of named numbers per call to `metrics.jsonl`, `metrics.csv` and TensorBoard.

    With `resume_step` an earlier log is continued: its records after that step are dropped. A last line that a
    crash left half written is cut. A value that is not finite becomes null, its name listed under "nonfinite".
    """

    def __init__(self, directory: Path, tensorboard: bool = True, resume_step: int | None = None):
        directory.mkdir(parents=True, exist_ok=True)
        self._csv_path = directory / "metrics.csv"
        jsonl_path = directory / "metrics.jsonl"
        self._records = _read_records(jsonl_path)
        if resume_step is not None:
            self._records = [record for record in self._records if record["step"] <= resume_step]
        write_atomically(jsonl_path, "".join(json.dumps(record) + "\n" for record in self._records))
        self._columns: list[str] = ["step"]
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            purge = None if resume_step is None else resume_step + 1
            self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=purge)
        self._jsonl = jsonl_path.open("a", encoding="utf-8")
        self._csv = self._rewrite_csv()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Adds the record of one step; the values are numbers or arrays of one number."""
        clash = [name for name in _RESERVED if name in values]
        if clash:
            raise ValueError(f"the metric name {clash[0]!r} is taken by the log itself; rename the metric.")
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        record: dict[str, Any] = {"step": int(step)} | {name: finite.get(name) for name in numbers}
        if len(finite) < len(numbers):
            record["nonfinite"] = [name for name in numbers if name not in finite]
        self._records.append(record)
        self._jsonl.write(json.dumps(record) + "\n")
        self._jsonl.flush()
        if any(name not in self._columns for name in numbers):
            self._csv.close()
            self._csv = self._rewrite_csv()
        else:
            self._csv.write(_csv_text([_csv_row(record, self._columns)]))
            self._csv.flush()
        for name, value in finite.items() if self._events else ():
            self._events.add_scalar(name, value, int(step))

    def close(self) -> None:
        self._jsonl.close()
        self._csv.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _rewrite_csv(self) -> io.TextIOWrapper:
        """Makes the table from all records; new columns stand behind the old ones."""
        for record in self._records:
            self._columns += [name for name in record if name not in self._columns and name != "nonfinite"]
        rows = [_csv_row(record, self._columns) for record in self._records]
        write_atomically(self._csv_path, _csv_text([self._columns, *rows]))
        return self._csv_path.open("a", encoding="utf-8", newline="")


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """The columns of a `metrics.csv`, each float64 [rows]; NaN where nothing, or nothing finite, was written."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return {
        name: np.array([float(row[i]) if row[i] else math.nan for row in rows], np.float64)
        for i, name in enumerate(header)
    }


def _read_records(path: Path) -> list[dict]:
    """The records of a `metrics.jsonl`; raises ValueError where a line before the last is damaged."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        # A crash can cut the last line anywhere; only a line whose end reached the disk counts.
        if number == len(lines):
            break
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not JSON; mend or remove that line.") from error
    return records


def _csv_row(record: dict, columns: list[str]) -> list[str]:
    """One row: an empty cell where the record lacks the column, `nan` where its value was not finite."""
    return [("nan" if record[name] is None else repr(record[name])) if name in record else "" for name in columns]


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class Progress:
    """Shows how far a training run is: updates and simulation steps per second, the last returns, time left.

    A bar on a terminal; elsewhere one plain line every `interval` seconds and a last one at the end.
    """

    def __init__(self, label: str, updates: int, interval: float = 5.0, stream=None, clock=time.monotonic):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._label, self._updates, self._interval, self._clock = label, updates, interval, clock
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._seen: deque[tuple[float, int, int, int]] = deque(maxlen=20)  # time, updates, sim and real steps
        self._returns: dict[str, float] = {}
        self._printed, self._last_line = -math.inf, ""
        columns = TextColumn("{task.fields[name]}"), BarColumn(24), TextColumn("{task.fields[line]}")
        self._bar = Bar(*columns, console=self._console) if self._console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._updates, name=self._label, line="compiling")
        return self

    def update(
        self,
        updates: int,
        sim_steps: int = 0,
        real_steps: int = 0,
        real_return: float | None = None,
        sim_return: float | None = None,
    ) -> None:
        """Tells the totals so far; returns are given when there is a new one and stay shown until the next."""
        now = self._clock()
        self._seen.append((now, updates, sim_steps, real_steps))
        fresh = {"real": real_return, "sim": sim_return}
        self._returns |= {name: value for name, value in fresh.items() if value is not None}
        self._last_line = self._line()
        if self._bar:
            self._bar.update(self._task, completed=updates, line=self._last_line)
        elif now - self._printed >= self._interval:
            self._print()
            self._printed = now

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, markup=False)

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._last_line:
            self._print()

    def _print(self) -> None:
        if self._last_line:
            self._console.print(f"{self._label}: {self._last_line}", markup=False)
            self._last_line = ""

    def _line(self) -> str:
        (t0, u0, s0, r0), (t1, u1, s1, r1) = self._seen[0], self._seen[-1]
        elapsed = t1 - t0
        parts = [f"{u1:,}/{self._updates:,} updates"]
        if elapsed > 0:
            parts.append(f"{(u1 - u0) / elapsed:,.0f} updates/s")
            parts += [f"{(s1 - s0) / elapsed:,.0f} sim steps/s"] if s1 else []
            parts += [f"{(r1 - r0) / elapsed:,.1f} real steps/s"] if r1 > r0 else []
        parts += [f"{name} return {value:,.0f}" for name, value in self._returns.items()]
        if elapsed > 0 and u1 > u0:
            left = math.ceil((self._updates - u1) * elapsed / (u1 - u0))
            parts.append(f"{left // 60}:{left % 60:02d} left")
        return " | ".join(parts)
