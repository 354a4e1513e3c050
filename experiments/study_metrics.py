"""What the learners of a study measured in their last interval: a line a run in OUT/NAME_metrics.csv, and a table.

From the folders that the runs left; of runs whose folders are elsewhere the lines that stand there are kept.
"""

import csv
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.csv_table import Table
from experiments.study_grid import Cell, folder_name
from experiments.study_markdown import table
from experiments.study_scores import Place, Scores
from experiments.study_table import Row


class Measured(NamedTuple):
    """The means of a run's last interval; NaN where its learner has no such metric."""

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
        return Cell(*self[: len(Cell._fields)])


METRICS = Measured._fields[len(Cell._fields) + 1 :]


def own_folder(row: Row, runs: Path) -> Path | None:
    """The folder of a finished run; None where it is not here, or is another run's."""
    folder = runs / folder_name(row.cell)
    if not (folder / "result.json").exists():
        return None
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return folder if _same(float(np.mean(result["real_returns"])), row.real_return) else None


def gathered(scores: Scores, runs: Path, out: Path) -> list[Measured]:
    """Of every finished run that is known, in the order of its rows; the file is written anew."""
    path = out / f"{scores.study.name}_metrics.csv"
    before = {line.cell: line for line in Table(path, Measured).read()}
    found = []
    for row in scores.rows.values():
        line, folder = before.get(row.cell), own_folder(row, runs)
        if folder is not None and (folder / "metrics.csv").exists():
            found.append(_measured(row, folder / "metrics.csv"))
        elif line is not None and _same(line.real_return, row.real_return):
            found.append(line)
    if found:
        new = path.with_name(f".{path.name}")
        new.unlink(missing_ok=True)
        Table(new, Measured).append(*found)
        os.replace(new, path)
    return found


def discriminators(scores: Scores, places: list[Place], measured: list[Measured]) -> list[str]:
    """Mean over seeds of the discriminators' accuracies [%], and of w or DARC's correction; [] where none is known."""
    told = {line.cell: line for line in measured if math.isfinite(line.discriminator_accuracy_sas)}
    methods = tuple(method for method in scores.study.methods if any(cell.method == method for cell in told))

    def cell(place: Place, method: str) -> str:
        lines = [told[row.cell] for row in scores.runs(place, method) if row.cell in told]
        if not lines:
            return "-"
        mean = {name: float(np.mean([getattr(line, name) for line in lines])) for name in METRICS}
        alone, whole = (100 * mean[f"discriminator_accuracy_{name}"] for name in ("sa", "sas"))
        by = "correction" if math.isnan(mean["weight_mean"]) else "w"
        value = mean["correction_mean"] if by == "correction" else mean["weight_mean"]
        extra = "" if math.isnan(value) else f"<br>{by} {value:.2f}"
        return f"{alone:.1f}, {whole:.1f}{extra}"

    return table(scores, places, lambda place: [cell(place, method) for method in methods], methods) if methods else []


def _measured(row: Row, path: Path) -> Measured:
    """The last line of a run's metrics.csv."""
    with path.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return Measured(*row.cell, row.real_return, *(float(last.get(name) or "nan") for name in METRICS))


def _same(one: float, other: float) -> bool:
    """Whether two figures are of the same run; a table keeps six digits."""
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
