"""Makes data sets in D4RL's layout from a task's real environment, of any size.

    python experiments/collect.py wheel_legged --quality hand_tuned --rows 20000
    python experiments/collect.py half_cheetah --quality medium_replay --rows 20000 --out mine.hdf5

random: uniform actions. hand_tuned: the task's own mediocre controller. The others roll out policies from the course
of one training (data/policies/TASK.npz, made by train_policies.py), with their noise: expert the best one; medium the
first that is 40 % of the way from the first return to the best; medium_replay all up to there, in equal shares;
medium_expert both, half and half. replay: what SAC sees while it learns in the real environment, trained here.
The attribute behaviour_return is the mean over whole episodes, NaN in a set too small to hold one.
"""

import contextlib
import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from experiments import online, stages
from experiments.experiment import DATA, Refused, factory
from hybrid_jax import config
from hybrid_jax.datasets import hdf5, scores
from hybrid_jax.types import Spec

Quality = Literal["random", "hand_tuned", "medium", "medium_replay", "medium_expert", "expert", "replay"]


@dataclass(frozen=True)
class Collection:
    """One data set."""

    task: str  # module of the task, e.g. envs.half_cheetah
    quality: Quality = "medium_replay"  # whose behaviour is recorded
    rows: int = 20_000  # rows of the set
    out: Path | None = None  # file to write; None: data/TASK.hdf5
    seed: int = 0  # of the environment, the networks and the noise
    policies: Path | None = None  # archive of trained policies; None: data/policies/TASK.npz
    training: online.Config = online.Config()  # replay: SAC in the real environment
    mantissa_bits: int | None = 11  # float precision kept in the file; None: all 23
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
    if wanted.quality == "replay" and min(wanted.rows, wanted.training.steps) < spec.episode_length:
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
    elif wanted.quality == "replay":
        with contextlib.closing(make_real()) as env, contextlib.closing(make_real()) as judge:
            data = thinned(online.learn(env, judge, spec, wanted.training, wanted.seed, print).data, wanted.rows)
    else:
        data = _rolled_out(wanted, make_real, spec, rng)
    returns = scores.episode_returns(data, spec.episode_length)
    behaviour = float(returns.mean()) if len(returns) else math.nan
    attributes = {
        "task": wanted.task,
        "quality": wanted.quality,
        "command": f"python experiments/collect.py {command}",
        "behaviour_return": behaviour,
    }
    hdf5.save(
        out, data, attributes, mantissa_bits=wanted.mantissa_bits, next_observations=False, overwrite=wanted.overwrite
    )
    earned = f"behaviour return {behaviour:,.0f}" if len(returns) else "no whole episode, so no behaviour return"
    print(f"{out}: {len(data.rewards):,} rows, {earned}")
    return out


def _rolled_out(wanted: Collection, make_real: Callable, spec: Spec, rng: np.random.Generator) -> hdf5.Dataset:
    """Rows of the policies that a quality stands for, in equal shares and in the order of their training."""
    archive = wanted.policies or stages.archive(wanted.task)
    if not archive.exists():
        short = wanted.task.rpartition(".")[2]
        raise Refused(f"--quality {wanted.quality} needs {archive}: make it with train_policies.py {short}")
    chosen = stages.of_quality(stages.load(archive), wanted.quality)
    if wanted.rows < len(chosen):
        raise Refused(f"--rows {wanted.rows} are too few for the {len(chosen)} policies of {wanted.quality}")
    shares = np.diff(np.arange(len(chosen) + 1) * wanted.rows // len(chosen))
    parts = []
    for i, (stage, rows) in enumerate(zip(chosen, shares, strict=True)):
        policy = stage.policy
        act = lambda obs, policy=policy: policy.explore(obs, rng)  # noqa: E731
        parts.append(_cut(_recorded(make_real, spec, act, int(rows), wanted.seed + i)))
    return hdf5.Dataset(*(np.concatenate(columns) for columns in zip(*(part[:6] for part in parts), strict=True)))


def _cut(data: hdf5.Dataset) -> hdf5.Dataset:
    """The same rows, whose last episode ends here: it is cut by the clock, for another policy's rows follow."""
    timeouts = data.timeouts.copy()
    timeouts[-1] = not data.terminals[-1]
    return data._replace(timeouts=timeouts)


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
