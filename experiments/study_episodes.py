"""The worst test episode of every seed against time, method by method, from the folders that a study's runs left.

The folders stay where the runs were made; a report that is written elsewhere keeps the picture that stands beside it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import study_folders, study_pictures
from experiments.study_grid import slug
from experiments.study_markdown import percent
from experiments.study_scores import Place, Scores, named
from experiments.study_table import Row


class Seen(NamedTuple):
    """One test episode."""

    t: np.ndarray  # [T] in seconds
    columns: np.ndarray  # [columns, T] in the units of the picture
    fell: bool


def draw(scores: Scores, task: str, runs: Path, out: Path) -> list[Path]:
    """The picture of the study's chosen gap and share, drawn anew where every finished run there left its folder."""
    study, columns = scores.study, scores.study.tasks[task].base.columns
    if study.episodes_of is None or not columns:
        return []
    data = next(iter(study.tasks[task].data))
    place, path = Place(task, study.episodes_of[0], data, study.episodes_of[1]), out / _name(study.name, task)
    finished = {method: scores.runs(place, method) for method in study.methods}
    found = {named(method): [_seen(row, columns, runs) for row in rows] for method, rows in finished.items() if rows}
    whole = {method: [seen for seen in episodes if seen is not None] for method, episodes in found.items()}
    if whole and all(len(whole[method]) == len(found[method]) for method in found):
        where = f"{study.words.get('gap', 'gap')} {place.gap}, {percent(place.share)} of the log"
        title = f"{study.title.partition(':')[0]}, {task.replace('_', ' ')}, {where}: each seed's worst test episode"
        labels = [(name, unit) for _, name, unit, _ in columns]
        study_pictures.plot_episodes(path, whole, labels, title)
    return [path] if path.exists() else []


def _name(study: str, task: str) -> str:
    return f"{study}_{slug(task)}_seeds.png"


def _seen(row: Row, columns: tuple, runs: Path) -> Seen | None:
    """The worst test episode of a run; None where its folder is not here, or is another run's."""
    folder = study_folders.own(row, runs)
    if folder is None or not (folder / "worst_episode.npz").exists():
        return None
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    dt = json.loads((folder / "policy" / "contract.json").read_text())["dt"]
    with np.load(folder / "worst_episode.npz", allow_pickle=False) as file:
        obs = file["obs"]
    picked = np.stack([factor * obs[:, i] for i, _, _, factor in columns])
    return Seen(dt * np.arange(len(obs)), picked, result["worst_fell"])
