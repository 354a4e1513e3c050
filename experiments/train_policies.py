"""Trains SAC directly in a real environment and keeps stages of its course, from clumsy to expert.

    python experiments/train_policies.py half_cheetah --training.steps 1000000

writes data/policies/half_cheetah.npz, which `experiments/collect.py` makes data sets from, and the curve beside it.
"""

import contextlib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import online, stages
from experiments.experiment import Refused, factory
from hybrid_jax import config, evaluate
from hybrid_jax.algorithms import sac
from hybrid_jax.metrics import write_atomically


@dataclass(frozen=True)
class Training:
    """One course of training."""

    task: str  # module of the task, e.g. envs.half_cheetah
    out: Path | None = None  # archive to write; None: data/policies/TASK.npz
    stages: int = 10  # policies to keep at most
    test_episodes: int = 10  # greedy episodes that give each kept policy its return
    seed: int = 0  # of the environment, the networks and the noise
    training: online.Config = online.Config(
        algorithm=sac.Config(batch_real=128, batch_sim=0, hidden=(128, 128)), steps=1_000_000, evaluate_every=20_000
    )


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 2 the user's mistake."""
    try:
        if not arguments or arguments[0].startswith("-"):
            raise config.ConfigError(f"name a task first, e.g. half_cheetah\n{__doc__}")
        name = arguments[0]
        defaults = Training(task=name if "." in name else f"envs.{name}")
        train(config.parse(defaults, arguments[1:], "train_policies.py", __doc__ or ""))
    except (config.ConfigError, Refused, ValueError, OSError) as error:
        print(f"train_policies.py: {error}", file=sys.stderr)
        return 2
    return 0


def train(wanted: Training) -> Path:
    """Trains and writes the archive, anew at every evaluation; returns its path."""
    out = wanted.out or stages.archive(wanted.task)
    out.parent.mkdir(parents=True, exist_ok=True)
    make_real, spec = factory(f"{wanted.task}:make_real", "task"), importlib.import_module(wanted.task).SPEC
    seen: list[stages.Stage] = []
    with contextlib.closing(make_real()) as env, contextlib.closing(make_real()) as judge:

        def keep(steps: int, score: float, actor: dict) -> None:
            seen.append(stages.Stage(steps, score, stages.rounded(actor)))
            stages.save(out, stages.chosen(seen, wanted.stages))
            curve = "".join(f"{stage.steps},{stage.score:.1f}\n" for stage in seen)
            write_atomically(out.with_suffix(".csv"), "real_steps,return\n" + curve)

        online.learn(env, judge, spec, wanted.training, wanted.seed, lambda text: print(text, flush=True), keep)
        kept = stages.chosen(seen, wanted.stages)
        for i, stage in enumerate(kept):
            episodes = evaluate.real_episodes(judge, stage.policy, wanted.test_episodes, 0, spec.episode_length)
            kept[i] = stage._replace(score=float(np.mean([episode.total for episode in episodes])))
            print(f"stage {i} after {stage.steps:,} steps: return {kept[i].score:,.0f}")
    stages.save(out, kept)
    return out


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
