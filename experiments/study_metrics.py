"""What the learners of a study measured, by the last record of each run: a line a run in OUT/NAME_metrics.csv, a table.

A record is the mean since the evaluation before, so of the whole training in a study without curves. From the folders
that the runs left; of runs whose folders are elsewhere the lines that stand there are kept.
"""

import csv
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import study_folders
from experiments.csv_table import Table
from experiments.study_grid import Cell
from experiments.study_markdown import table
from experiments.study_scores import Place, Scores
from experiments.study_table import Row


class Measured(NamedTuple):
    """A run's last record; NaN where its learner has no such metric."""

    task: str
    gap: str
    data: str
    share: str
    method: str
    seed: int
    real_return: float  # of the run's row, which tells whose metrics they are
    q_max: float
    q: float
    q_real: float
    q_sim: float
    entropy: float
    temperature: float
    critic_loss: float
    penalty: float
    weight_mean: float
    u_mean: float
    correction_mean: float
    discriminator_accuracy_sa: float
    discriminator_accuracy_sas: float

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.gap, self.data, self.share, self.method, self.seed)


METRICS = Measured._fields[len(Cell._fields) + 1 :]


def gathered(scores: Scores, runs: Path, out: Path) -> list[Measured]:
    """Of every finished run that is known; the file gets its new lines, and loses those of runs that were run again."""
    path = out / f"{scores.study.name}_metrics.csv"
    before = Table(path, Measured).read()
    lines = {line.cell: line for line in before}
    for row in scores.rows.values():
        folder = study_folders.own(row, runs)
        if folder is not None and (folder / "metrics.csv").exists():
            lines[row.cell] = _measured(row, folder / "metrics.csv")
        elif row.cell in lines and not study_folders.same(lines[row.cell].real_return, row.real_return):
            del lines[row.cell]
    if before or lines:
        new = path.with_name(f".{path.name}")
        new.unlink(missing_ok=True)
        Table(new, Measured).append(*lines.values())
        os.replace(new, path)
    return [line for line in lines.values() if line.cell in scores.rows]


def discriminators(scores: Scores, places: list[Place], measured: list[Measured]) -> list[str]:
    """Mean over seeds of the discriminators' accuracies [%], and of w or DARC's correction; [] where none is known."""
    told = {line.cell: line for line in measured if math.isfinite(line.discriminator_accuracy_sas)}
    methods = tuple(method for method in scores.study.methods if any(cell.method == method for cell in told))

    def cell(place: Place, method: str) -> str:
        runs = scores.runs(place, method)
        lines = [told[row.cell] for row in runs if row.cell in told]
        if not lines:
            return "-"
        mean = {name: float(np.mean([getattr(line, name) for line in lines])) for name in METRICS}
        alone, whole = (100 * mean[f"discriminator_accuracy_{name}"] for name in ("sa", "sas"))
        by = "correction" if math.isnan(mean["weight_mean"]) else "w"
        value = mean["correction_mean"] if by == "correction" else mean["weight_mean"]
        extra = "" if math.isnan(value) else f"<br>{by} {value:.2f}"
        return f"{alone:.1f}, {whole:.1f}{extra}" + ("" if len(lines) == len(runs) else f", n {len(lines)}")

    return table(scores, places, lambda place: [cell(place, method) for method in methods], methods) if methods else []


def _measured(row: Row, path: Path) -> Measured:
    """The last line of a run's metrics.csv."""
    with path.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return Measured(*row.cell, row.real_return, *(float(last.get(name) or "nan") for name in METRICS))
