"""What a run's log says of an interval: means of its metrics, returns in the real environment and in the simulator."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import live
from experiments.experiment import Experiment
from experiments.worlds import Worlds
from hybrid_jax import evaluate
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.rollout import Stats
from hybrid_jax.types import Algorithm

EVALUATION_SEED = 1_000  # real episodes during training start from these seeds on ...
TEST_SEED = 1_000_000  # ... and the test, once at the end, from these
SIM_EPISODES = 8
# Metrics that are summed up over an interval; those of the robot, which are totals, tell the newest instead.
_SUMMED = (*(f"/{name}" for name in Stats._fields), "guard/skipped", "robot/rows")


def pick(tree: Any, i: int | None) -> Any:
    """One seed's part of a tree with leaves [S, ...]; the whole tree for None."""
    return tree if i is None else jax.tree.map(lambda leaf: leaf[i], tree)


def means(waiting: list[dict], i: int | None) -> dict[str, float]:
    """One number for each metric of the iterations since the last record: the one fetch of the interval.

    An iteration without a good update has no losses (NaN) and does not count for them.
    """
    fetched = jax.device_get(waiting)
    told = [name for name in fetched[0] if name != "guard/culprit"]  # an index: no mean of it says anything
    return {name: _aggregate(name, [pick(metrics[name], i) for metrics in fetched]) for name in told}


def _aggregate(name: str, values: list[Any]) -> float:
    seen = [float(value) for value in values if not math.isnan(value)]
    if name.endswith(("_max", "guard/in_a_row")):
        return max(seen, default=math.nan)
    if name.endswith(_SUMMED):
        return float(np.sum(seen))
    return seen[-1] if name.startswith("robot/") else mean(seen)


def mean(values: list[float]) -> float:
    """NaN where there are none."""
    return float(np.mean(values)) if values else math.nan


def judge_of(experiment: Experiment, worlds: Worlds, algorithm: Algorithm, many: bool) -> Callable:
    """(state, iteration, robot) -> per seed, the mean returns in the real environment and in the simulator.

    Where the robot is its own judge, its exploring episodes since the last time count; NaN where none ended.
    """
    in_sim = evaluate.sim_returns(worlds.sim, algorithm.act, SIM_EPISODES)
    in_sim = jax.jit(jax.vmap(in_sim, in_axes=(0, None)) if many else in_sim)

    def judge(state: Any, iteration: int, robot: live.Robot | None) -> list[dict[str, float]]:
        policies = algorithm.deployed(state.algorithm)
        sim = np.atleast_2d(jax.device_get(in_sim(policies, jax.random.key(iteration))))
        policies = jax.device_get(policies)
        lived = [] if robot is None else [episode for episode in robot.episodes() if not episode.greedy]
        scores = []
        for i, returns in enumerate(sim):
            episodes = lived
            if worlds.real is not None:
                policy = NumpyPolicy.from_params(pick(policies, i if many else None))
                episodes = evaluate.real_episodes(
                    worlds.real, policy, experiment.episodes, EVALUATION_SEED, worlds.spec.episode_length
                )
            seen = {
                "real_return": mean([episode.total for episode in episodes]),
                "real_length": mean([len(episode.rewards) for episode in episodes]),
                "real_falls": float(sum(episode.terminated for episode in episodes)) if episodes else math.nan,
                "sim_return": float(np.mean(returns)),
            }
            if worlds.sim.success is not None:
                seen["real_success"] = mean([float(worlds.sim.success(episode.obs[-1])) for episode in episodes])
            if robot is not None:
                seen |= {"robot/episodes": len(lived), "robot/return": mean([episode.total for episode in lived])}
            scores.append(seen)
        return scores

    return judge
