"""The pictures of a study's report: for each task and data set the returns by method, and against the log's share."""

import math
from pathlib import Path

from experiments import study_pictures
from experiments.study_grid import slug
from experiments.study_scores import Place, Scores, Summary, named


def draw(scores: Scores, out: Path) -> dict[str, list[Path]]:
    """Writes the pictures of every task that has runs."""
    study = scores.study
    made: dict[str, list[Path]] = {task: [] for task in study.tasks}
    for task, chosen in study.tasks.items():
        for data in chosen.data:
            places = [place for place in scores.places if (place.task, place.data) == (task, data)]
            if any(scores.runs(place, method) for place in places for method in study.methods):
                parts = [study.name, slug(task), *([slug(data)] if len(chosen.data) > 1 else [])]
                made[task] += _draw(scores, places, out / "_".join(parts))
    return made


def _draw(scores: Scores, places: list[Place], stem: Path) -> list[Path]:
    study, (task, _, data, _) = scores.study, places[0]
    behaviour = scores.behaviour(task, data)
    level = None if math.isnan(behaviour) else behaviour
    title = f"{study.title.partition(':')[0]}: {task.replace('_', ' ')}, {data}"
    strong = named("h2o" if "h2o" in study.methods else study.methods[-1])
    path, most = stem.with_name(f"{stem.name}_returns.png"), max(study.shares)
    whole = [place for place in places if place.share == f"{most:g}"]
    share = "" if most == 1 else f", {100 * most:.3g} % of the log"
    study_pictures.plot_by_method(path, _by_method(scores, whole), strong, level, title + share)
    if len(study.shares) == 1:
        return [path]
    second = stem.with_name(f"{stem.name}_shares.png")
    study_pictures.plot_by_share(second, _by_share(scores, places), strong, level, title)
    return [path, second]


def _heading(scores: Scores, place: Place) -> str:
    return f"{scores.study.words.get('gap', 'gap')}: {place.gap}"


def _by_method(scores: Scores, places: list[Place]) -> dict[str, dict[str, Summary | None]]:
    methods = scores.study.methods
    return {
        _heading(scores, place): {named(method): scores.summary(place, method) for method in methods}
        for place in places
    }


def _by_share(scores: Scores, places: list[Place]) -> dict[str, dict[str, dict[float, Summary]]]:
    """Gap -> method -> share -> figure."""
    panels: dict[str, dict[str, dict[float, Summary]]] = {}
    for place in places:
        for method in scores.study.methods:
            found = scores.summary(place, method)
            panel = panels.setdefault(_heading(scores, place), {})
            if found is not None:
                panel.setdefault(named(method), {})[float(place.share)] = found
    return panels
