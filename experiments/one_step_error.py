"""How far one simulated step lands from the recorded one: the gap that is there before any is laid on, and with it.

    python experiments/one_step_error.py half_cheetah_gravity_h2o --rows 2000
    python experiments/one_step_error.py --dataset my_log.hdf5 --sim envs.hopper:make --gap.friction 0.3

The simulator is set to a row's observation, takes the row's action once, and its answer is compared with the row's true
successor, also at terminals and time limits. Told by dimension: the error's root mean square, the same relative to the
data's own one-step change (the reward: to the rewards' deviation), median and 99th percentile of its magnitude; `all`
is the root mean square of the dimensions' relative errors. Rows with speeds that the task clips are left out. The
noise of sensors and a wheel's slip, which no observation holds, are in the error. The last line is JSON.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from envs import gap
from envs.gap import Gap
from experiments import experiment
from experiments.experiment import Refused, factory
from hybrid_jax import config, physics
from hybrid_jax.datasets import load
from hybrid_jax.datasets.hdf5 import Dataset
from hybrid_jax.physics import Engine
from hybrid_jax.types import PyTree, SimEnv


@dataclass(frozen=True)
class Measurement:
    """One comparison; an experiment's name fills in the first five."""

    dataset: Path | None = None  # the recorded rows
    sim: str | None = None  # module:factory of the simulator
    gap: Gap = Gap()  # laid on for the second comparison
    engine: Engine = "auto"  # physics engine: auto, native, mjx or mjx-warp
    threads: int | None = None  # host threads of the native engine; None: one per core
    rows: int = 2000  # rows compared, drawn at random without replacement
    seed: int = 0  # of the draw and of a gap's noise


class Errors(NamedTuple):
    """What a simulator makes of the rows; by dimension [O], then the reward."""

    rms: np.ndarray  # [O + 1]
    relative: np.ndarray  # [O + 1] rms / the data's root mean square change (the reward: its deviation); NaN for none
    median: np.ndarray  # [O + 1] of |error|
    p99: np.ndarray  # [O + 1]
    overall: float  # root mean square of `relative` over the dimensions
    ends: int  # rows where the simulator terminates and the data do not, or the other way round
    diverged: int  # rows whose simulation was not finite; they are left out of all above


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 2 the user's mistake."""
    try:
        wanted, name = Measurement(), ""
        if arguments and not arguments[0].startswith("-"):
            name, *arguments = arguments
            base = experiment.load(name)
            wanted = Measurement(base.dataset, base.sim, base.gap, base.engine, base.threads)
        wanted = config.parse(wanted, arguments, "one_step_error.py", __doc__ or "")
        print("\n".join(report(wanted, name)))
    except (config.ConfigError, Refused, ValueError, OSError) as error:
        print(f"one_step_error.py: {error}", file=sys.stderr)
        return 2
    return 0


def report(wanted: Measurement, name: str = "") -> list[str]:
    """The lines of the comparison, the last of them JSON. Raises Refused, DatasetError or ValueError."""
    if wanted.dataset is None or wanted.sim is None:
        raise Refused("name an experiment with a data set, or give --dataset FILE and --sim module:factory")
    if wanted.rows < 1:
        raise Refused(f"--rows {wanted.rows} must be at least 1")
    # a simulator without a physics engine need not know these
    default = (wanted.engine, wanted.threads) == ("auto", None)
    bare: SimEnv = factory(wanted.sim, "sim")(**{} if default else {"engine": wanted.engine, "threads": wanted.threads})
    data = load.load(wanted.dataset, bare.spec)
    states = states_of(wanted.sim.partition(":")[0], bare)
    known = np.flatnonzero(np.all(np.abs(states.speeds(data.observations)) < states.max_speed, axis=1))
    if len(known) == 0:
        raise Refused(f"{wanted.dataset}: no row's speeds are below {states.max_speed:g}, at which they are clipped")
    rows = np.sort(np.random.default_rng(wanted.seed).permutation(known)[: wanted.rows])
    worlds = {"as it is": bare}
    if wanted.gap != Gap():
        changed = {key: value for key, value in asdict(wanted.gap).items() if value != getattr(Gap(), key)}
        worlds[", ".join(f"{key} {value:g}" for key, value in changed.items())] = gap.apply(bare, wanted.gap)
    found = {label: errors(env, states, data, rows, wanted.seed) for label, env in worlds.items()}
    title = f"{name + ': ' if name else ''}{wanted.sim} against {len(rows):,} of {len(data.rewards):,} rows"
    left_out = len(data.rewards) - len(known)
    notes = [f"note: {note}" for note in data.notes]
    notes += [f"note: {left_out:,} rows have speeds clipped at {states.max_speed:g}: left out"] if left_out else []
    numbers = {label: {key: _plain(value) for key, value in each._asdict().items()} for label, each in found.items()}
    last = {"dataset": str(wanted.dataset), "sim": wanted.sim, "rows": len(rows), "worlds": numbers}
    return [f"{title} of {wanted.dataset}", *notes, *_table(found), json.dumps(last)]


class States(NamedTuple):
    """How a task's observations become states of its physics."""

    of: Callable  # (obs [N, O], mj_model) -> (qpos [N, nq], qvel [N, nv])
    speeds: Callable = lambda obs: obs[:, :0]  # obs -> the speeds in it [N, K]
    max_speed: float = np.inf  # at which the task clips them


def runner(obs: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """gymnasium's planar runners: everything but x, which changes nothing."""
    return np.pad(obs[:, : model.nq - 1], ((0, 0), (1, 0))), obs[:, model.nq - 1 :]


def balancer(obs: np.ndarray, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """The wheel-legged robot: it rests on its wheels and they roll without slipping, which is nearly so."""
    data = mujoco.MjData(model)
    while data.time < 1.0:  # a balancer that stands exactly upright stays so
        mujoco.mj_step(model, data)
    x, speed, tilt, rate = obs.T
    none, rolling = np.zeros_like(x), speed / model.geom("left_tyre").size[0] - rate
    height = none + data.qpos[1]
    return np.stack([x, height, tilt, none, none], 1), np.stack([speed, none, rate, rolling, rolling], 1)


CLIPPED = 10.0  # [m/s, rad/s] gymnasium's Hopper and Walker2d
STATES = {
    "envs.half_cheetah": States(runner),
    "envs.hopper": States(runner, lambda obs: obs[:, 5:], CLIPPED),
    "envs.walker2d": States(runner, lambda obs: obs[:, 8:], CLIPPED),
    "envs.wheel_legged": States(balancer),
    "envs.wheel_legged_straight": States(balancer),
}


def states_of(module: str, env: SimEnv) -> States:
    """How a task's simulator is set to an observation; raises Refused where nobody said."""
    own = getattr(importlib.import_module(module), "state_from_obs", None)
    if env.physics is None or (own is None and module not in STATES):
        raise Refused(
            f"{module} cannot be set to an observation; give it a function state_from_obs(obs [N, O], mj_model) ->"
            " (qpos [N, nq], qvel [N, nv]) and a simulator with MuJoCo physics"
        )
    if physics.batch_axes(env.model, env.physics.mj_model) is not None:
        raise Refused(f"{module} gives each simulation physics of its own; compare one of them")
    return States(own) if own else STATES[module]


def errors(env: SimEnv, states: States, data: Dataset, rows: np.ndarray, seed: int = 0) -> Errors:
    """One step of the simulator from each of the rows, against what was recorded."""
    obs, actions = data.observations[rows], data.actions[rows]
    model = physics.with_constants(env.physics.mj_model, env.model)
    qpos, qvel = (jnp.asarray(part, jnp.float32) for part in states.of(obs, model))
    keys = jax.random.split(jax.random.key(seed), len(rows))

    @jax.jit
    def answers(keys, obs, qpos, qvel, actions):
        first, _ = jax.vmap(env.reset, in_axes=(None, 0))(env.model, keys)
        inner = jax.vmap(env.physics.init, in_axes=(None, 0, 0))(env.model, qpos, qvel)
        state = _placed(first, inner, obs, lambda steps: jnp.asarray(before(data, rows, steps)))
        return jax.vmap(env.step, in_axes=(None, 0, 0))(env.model, state, actions)[1]

    out = jax.tree.map(np.asarray, answers(keys, obs, qpos, qvel, actions))
    truth = np.column_stack([data.next_observations[rows], data.rewards[rows]]).astype(np.float64)
    missed = np.column_stack([out.obs, out.reward]).astype(np.float64) - truth
    fine = np.isfinite(missed).all(axis=1)
    if not fine.any():
        raise Refused("every simulation diverged: the simulator's state is not what the observations mean")
    missed, change = missed[fine], truth[fine] - np.column_stack([obs, np.zeros(len(rows))])[fine]
    scale = np.append(_rms(change[:, :-1]), change[:, -1].std())
    rms = _rms(missed)
    relative = np.divide(rms, scale, out=np.full_like(rms, np.nan), where=scale > 0)
    ends = int((out.terminated != data.terminals[rows])[fine].sum())
    median, p99 = np.quantile(np.abs(missed), [0.5, 0.99], axis=0)
    overall = float(np.sqrt(np.nanmean(relative[:-1] ** 2)))
    return Errors(rms, relative, median, p99, overall, ends, int((~fine).sum()))


def before(data: Dataset, rows: np.ndarray, steps: int) -> np.ndarray:
    """The `steps` actions before each row [N, steps, A], the oldest first; zeros before an episode's first."""
    ends = np.concatenate([[0], np.flatnonzero(data.terminals | data.timeouts) + 1])
    start = ends[np.searchsorted(ends, rows, "right") - 1]
    places = rows[:, None] - np.arange(steps, 0, -1)
    return np.where((places >= start[:, None])[..., None], data.actions[np.maximum(places, 0)], 0.0)


def _placed(state: PyTree, inner: PyTree, obs: np.ndarray, pending: Callable[[int], Any]) -> PyTree:
    """A simulation's state around other physics; gaps of the action and tasks that look back wrap it."""
    if not hasattr(state, "inner"):
        return inner
    changed = {"inner": _placed(state.inner, inner, obs, pending)}
    if hasattr(state, "obs"):
        changed["obs"] = obs
    if hasattr(state, "pending"):
        changed["pending"] = pending(state.pending.shape[1])
    return state._replace(**changed)


def _plain(value: Any) -> Any:
    """A number or a list of them with six digits; None where there is none."""
    if np.ndim(value):
        return [_plain(each) for each in value]
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(values**2, axis=0))


def _table(found: dict[str, Errors]) -> list[str]:
    """A line a dimension, a block of four numbers a simulator."""
    blocks = list(found.values())
    names = [str(i) for i in range(len(blocks[0].rms) - 1)] + ["reward"]
    lines = [" " * 6 + "".join(f"   {label:^44}" for label in found)]
    lines += [" " * 6 + "".join(f"   {'RMS':>10} {'relative':>10} {'median':>10} {'99 %':>10} " for _ in found)]
    for i, name in enumerate(names):
        numbers = [(each.rms[i], each.relative[i], each.median[i], each.p99[i]) for each in blocks]
        lines.append(f"{name:6}" + "".join("   " + "".join(f"{n:10.3g} " for n in each) for each in numbers))
    lines.append(f"{'all':6}" + "".join(f"   {'':10} {each.overall:10.3g} {'':21} " for each in blocks))
    for label, each in found.items():
        lines.append(f"{label}: another end in {each.ends:,} rows, diverged in {each.diverged:,}")
    return lines


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
