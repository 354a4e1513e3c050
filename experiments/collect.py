"""Makes data sets in D4RL's layout from a task's real environment.

    python experiments/collect.py wheel_legged --quality hand_tuned --rows 20000
    python experiments/collect.py half_cheetah --quality medium_replay --rows 150000 --training.steps 150000

random: uniform actions. hand_tuned: the task's own mediocre controller. medium: SAC trained in the real
environment until an evaluation reaches --stop_return, then rolled out. medium_replay: the rows that SAC saw
up to there, or in its whole budget. expert: SAC trained for the whole budget, then rolled out.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from experiments import online
from experiments.experiment import DATA, Refused, factory
from hybrid_jax import config
from hybrid_jax.datasets import hdf5, scores
from hybrid_jax.export import NumpyPolicy, save_policy
from hybrid_jax.types import Spec

Quality = Literal["random", "hand_tuned", "medium", "medium_replay", "expert"]


@dataclass(frozen=True)
class Collection:
    """One data set."""

    task: str  # module of the task, e.g. envs.half_cheetah
    quality: Quality = "medium_replay"  # whose behaviour is recorded
    rows: int = 20_000  # rows of the set
    out: Path | None = None  # file to write; None: data/TASK.hdf5
    seed: int = 0  # of the environment, the networks and the noise
    stop_return: float | None = None  # medium, medium_replay: an evaluation this good ends training; None: the budget
    training: online.Config = online.Config()  # SAC in the real environment
    mantissa_bits: int | None = 11  # float precision kept in the file; None: all 23
    policy_out: Path | None = None  # folder for the trained policy, if wanted
    overwrite: bool = False  # replace an existing file


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 2 the user's mistake."""
    try:
        if not arguments or arguments[0].startswith("-"):
            raise config.ConfigError(f"name a task first, e.g. wheel_legged or half_cheetah\n{__doc__}")
        name = arguments[0]
        defaults = Collection(task=name if "." in name else f"envs.{name}")
        collect(config.parse(defaults, arguments[1:], "collect.py", __doc__ or ""), " ".join(arguments))
    except (config.ConfigError, Refused, ValueError, OSError) as error:
        print(f"collect.py: {error}", file=sys.stderr)
        return 2
    return 0


def collect(wanted: Collection, command: str) -> Path:
    """Records the set and writes it; returns the file's path."""
    out = wanted.out or DATA / f"{wanted.task.rpartition('.')[2]}.hdf5"
    if out.exists() and not wanted.overwrite:
        raise Refused(f"{out} exists; give --out or --overwrite true")
    if wanted.rows < 1:
        raise Refused(f"--rows {wanted.rows} must be at least 1")
    out.parent.mkdir(parents=True, exist_ok=True)  # before any training, for it may be refused
    make_real = factory(f"{wanted.task}:make_real", "task")
    spec: Spec = importlib.import_module(wanted.task).SPEC
    if wanted.quality == "medium_replay" and min(wanted.rows, wanted.training.steps) < spec.episode_length:
        raise Refused(
            f"--rows {wanted.rows} and --training.steps {wanted.training.steps} must each hold a whole episode"
            f" of up to {spec.episode_length} steps: a replay set is made of whole ones"
        )
    rng = np.random.default_rng(wanted.seed)
    if wanted.quality == "random":
        data = _recorded(make_real, spec, lambda obs: rng.uniform(-1, 1, spec.action_size), wanted.rows, wanted.seed)
    elif wanted.quality == "hand_tuned":
        controller = factory(f"{wanted.task}:hand_tuned", "quality")
        data = _recorded(make_real, spec, controller(rng), wanted.rows, wanted.seed)
    else:
        data = _learned(wanted, make_real, spec, rng)
    behaviour = scores.behaviour_return(data)
    attributes = {
        "task": wanted.task,
        "quality": wanted.quality,
        "command": f"python experiments/collect.py {command}",
        "behaviour_return": behaviour,
    }
    hdf5.save(
        out, data, attributes, mantissa_bits=wanted.mantissa_bits, next_observations=False, overwrite=wanted.overwrite
    )
    print(f"{out}: {len(data.rewards):,} rows, behaviour return {behaviour:,.0f}")
    return out


def _learned(wanted: Collection, make_real, spec: Spec, rng: np.random.Generator) -> hdf5.Dataset:
    training = wanted.training
    if wanted.quality == "medium" and wanted.stop_return is None:
        raise Refused("--quality medium needs --stop_return, the return that ends the training")
    if wanted.quality != "expert":
        training = replace(training, stop_return=wanted.stop_return)
    with contextlib.closing(make_real()) as env, contextlib.closing(make_real()) as judge:
        result = online.learn(env, judge, spec, training, wanted.seed, print)
    if wanted.policy_out is not None:
        save_policy(wanted.policy_out, result.actor, {"dt": spec.dt, "task": wanted.task})
    if wanted.quality == "medium_replay":
        return thinned(result.data, wanted.rows)
    policy = NumpyPolicy.from_params(result.actor)
    return _recorded(make_real, spec, lambda obs: policy.explore(obs, rng), wanted.rows, wanted.seed + 1)


def _recorded(make_real: Callable, spec: Spec, act: Callable, rows: int, seed: int) -> hdf5.Dataset:
    with contextlib.closing(make_real()) as env:
        return online.record(env, spec, act, rows, seed)


def thinned(data: hdf5.Dataset, rows: int) -> hdf5.Dataset:
    """Whole episodes, spread evenly over the training, up to `rows` rows in all; an open last one is dropped."""
    ends = np.flatnonzero(data.terminals | data.timeouts) + 1
    starts = np.concatenate([[0], ends[:-1]])
    total = int(ends[-1])
    if rows >= total:
        chosen = np.arange(total)
    else:
        share, kept, picks = rows / total, 0.0, []
        for start, end in zip(starts, ends, strict=True):
            # an episode is taken whenever the quota up to its end allows the whole of it
            if kept + (end - start) <= share * end + 1e-9 or (kept == 0 and end - start <= rows):
                picks.append(np.arange(start, end))
                kept += end - start
        chosen = np.concatenate(picks)
    return hdf5.Dataset(*(np.asarray(column)[chosen] for column in data[:6]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
