"""The folders of a study's runs: whose they are, and which cut run goes on in them."""

import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np

from experiments.study_grid import Cell, Study, experiment_of, folder_name, settings_of
from experiments.study_table import Row
from hybrid_jax.config import to_json
from hybrid_jax.metrics import write_atomically


def own(row: Row, runs: Path) -> Path | None:
    """The folder of a finished run; None where it is not here, or is another run's."""
    folder = runs / folder_name(row.cell)
    if not (folder / "result.json").exists():
        return None
    result = json.loads((folder / "result.json").read_text())
    return folder if same(float(np.mean(result["real_returns"])), row.real_return) else None


def same(one: float, other: float) -> bool:
    """Whether two returns are of the same run; a table keeps six digits."""
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)


def cut(study: Study, cells: list[Cell], folders: list[Path]) -> bool:
    """Whether the folders hold these runs, with today's settings, cut behind a checkpoint."""
    marks = [folder / "cell.json" for folder in folders]
    alike = all(mark.exists() and mark.read_text() == _mark(study, cells) for mark in marks)
    return alike and (folders[0] / "checkpoints").is_dir()


def clear(study: Study, cells: list[Cell], folders: list[Path]) -> None:
    """New folders for these runs."""
    for folder, cell in zip(folders, cells, strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = json.dumps(to_json(experiment_of(study, cell)), indent=2)
        write_atomically(folder / "config.json", config + "\n")
        write_atomically(folder / "cell.json", _mark(study, cells))


def _mark(study: Study, cells: list[Cell]) -> str:
    """What a cut run must have in common with the one that goes on from its checkpoint."""
    settings = settings_of(experiment_of(study, cells[0]))
    return json.dumps({"settings": settings, "seeds": [cell.seed for cell in cells], "on": jax.default_backend()})
