"""The figures of a run on disk.

`metrics.jsonl` is the truth, one object a line, handed to the system before `write` returns; `metrics.csv`
is the same as a table, made again from it when columns are added or a run resumes; TensorBoard gets a copy.
"""

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

_RESERVED = ("step", "nonfinite")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Puts a whole file in place: after a crash the old one or the new one is there, never a part."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class RunLog:
    """Writes one record of named numbers per call to `metrics.jsonl`, `metrics.csv` and TensorBoard.

    With `resume_step` an earlier log is continued: its records after that step are dropped. A last line that
    a crash left half written is cut. A value that is not finite becomes null and its name stands under
    "nonfinite".
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
        if self._events:
            for name, value in finite.items():
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
    """The columns of a `metrics.csv`, each float64 [rows]; NaN where no finite value was written."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return {
        name: np.array([float(row[i]) if row[i] else math.nan for row in rows], np.float64)
        for i, name in enumerate(header)
    }


def _read_records(path: Path) -> list[dict]:
    """The records of a `metrics.jsonl`; raises ValueError where a line before the last is damaged."""
    # A crash can cut the last line anywhere; only a line whose end reached the disk counts.
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path} line {number} is not JSON; mend or remove that line.") from error
    return records


def _csv_row(record: dict, columns: list[str]) -> list[str]:
    """One row: an empty cell where the record lacks the column, `nan` where its value was not finite."""
    cells = {name: "nan" if value is None else repr(value) for name, value in record.items()}
    return [cells.get(name, "") for name in columns]


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
