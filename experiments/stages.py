"""Policies from the course of one training, from clumsy to expert: what data sets of any size are made from.

An archive `data/policies/TASK.npz` holds S stages in the order of training: `steps` [S], `returns` [S] and the
actor's parameters, each [S, ...] in half precision. Nothing in it is pickled.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.experiment import DATA
from hybrid_jax.export import NumpyPolicy, flatten, unflatten

MEDIUM = 0.4  # of the way from the first stage's return to the best: where D4RL's medium half-cheetah stands


class Stage(NamedTuple):
    """A policy as it was after some real steps."""

    steps: int
    score: float  # mean return of its greedy episodes
    actor: Any  # parameters, float32

    @property
    def policy(self) -> NumpyPolicy:
        return NumpyPolicy.from_params(self.actor)


def chosen(seen: list[Stage], count: int) -> list[Stage]:
    """Up to `count` stages: the first to reach each of as many levels, even from the first return to the best."""
    levels = np.linspace(seen[0].score, max(stage.score for stage in seen), count)
    first = [next(i for i, stage in enumerate(seen) if stage.score >= level) for level in levels]
    return [seen[i] for i in sorted(set(first))]


def of_quality(stages: list[Stage], quality: str) -> list[Stage]:
    """The stages that make a data set of that quality: medium, medium_replay, medium_expert or expert."""
    first, best = stages[0].score, max(stage.score for stage in stages)
    medium = next(i for i, stage in enumerate(stages) if stage.score >= first + MEDIUM * (best - first))
    expert = max(stages, key=lambda stage: stage.score)
    return {
        "medium": [stages[medium]],
        "medium_replay": stages[: medium + 1],
        "medium_expert": [stages[medium], expert],
        "expert": [expert],
    }[quality]


def archive(task: str) -> Path:
    """Where the repository keeps the stages of a task's module."""
    return DATA / "policies" / f"{task.rpartition('.')[2]}.npz"


def rounded(actor: Any) -> Any:
    """The parameters as an archive gives them back."""
    return unflatten({name: np.float32(np.float16(leaf)) for name, leaf in flatten(actor).items()})


def save(path: Path, stages: list[Stage]) -> None:
    """Writes an archive. Raises ValueError for no stage."""
    if not stages:
        raise ValueError(f"{path}: there is no stage to write")
    actors = [flatten(stage.actor) for stage in stages]
    leaves = {f"actor/{name}": np.float16([actor[name] for actor in actors]) for name in actors[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.partial.npz")
    about = {"steps": np.int64([s.steps for s in stages]), "returns": np.float32([s.score for s in stages])}
    np.savez_compressed(partial, allow_pickle=False, **about, **leaves)
    partial.replace(path)


def load(path: Path) -> list[Stage]:
    """The stages of an archive. Raises ValueError for a file that is none."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if not {"steps", "returns"} < arrays.keys():
        raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}; it is no archive of stages")
    steps, scores = arrays.pop("steps"), arrays.pop("returns")
    leaves = {name.removeprefix("actor/"): np.float32(leaf) for name, leaf in arrays.items()}
    return [
        Stage(int(steps[i]), float(scores[i]), unflatten({name: leaf[i] for name, leaf in leaves.items()}))
        for i in range(len(steps))
    ]
