"""The worlds of an experiment: simulator, real environment or robot, log; built, looked at, refused in one sentence."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from envs import gap
from experiments import live
from experiments.experiment import Experiment, Refused, factory
from hybrid_jax import physics, rollout
from hybrid_jax.datasets import hdf5, scores
from hybrid_jax.datasets.load import load
from hybrid_jax.real import segments
from hybrid_jax.real.gate import GateError, declared, is_robot
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.settings import RobotStopped
from hybrid_jax.types import RealEnv, SimEnv, Spec, Transition


class Worlds(NamedTuple):
    """The environments and the data of an experiment, ready for use."""

    spec: Spec
    sim: SimEnv
    real: RealEnv | None  # the instance that judges; None where the robot itself does
    log: hdf5.Dataset | None  # the real data as recorded
    rows: Transition | None  # the same in the stores' form, leaves [D, ...] numpy
    behaviour_return: float | None  # mean over the log's whole episodes; None for none
    more_sims: tuple[SimEnv, ...] = ()  # further simulators
    pretended: SimEnv | None = None  # plays reality while learning


def build(experiment: Experiment, undo: ExitStack) -> Worlds:
    """The worlds that an experiment names; undo: closes what was opened. Raises Refused."""
    sim = gap.apply(_simulator(experiment, "sim", experiment.sim), experiment.gap)
    more = tuple(_simulator(experiment, "more_sims", reference) for reference in experiment.more_sims)
    more = tuple(gap.apply(env, experiment.gap) for env in more)
    pretended = _simulator(experiment, "pretended", experiment.pretended) if experiment.pretended else None
    _check_live(experiment, sim.spec)
    real = None if experiment.live.by_robot else _instance(experiment, sim.spec, undo)
    if real is None:
        _check_robot(experiment, sim.spec)
    for index, name, _, _ in experiment.columns:
        if not 0 <= index < sim.spec.obs_size:
            raise Refused(f"--columns: {name!r} is observation {index}, but there are {sim.spec.obs_size}")
    if experiment.dataset is None:
        return Worlds(sim.spec, sim, real, None, None, None, more, pretended)
    log = _first_rows(load(experiment.dataset, sim.spec), experiment.log_rows)
    length = sim.spec.episode_length
    whole = len(scores.episode_returns(log, length)) > 0
    behaviour = scores.behaviour_return(log, length) if whole else None  # who drove is the same for any share of it
    log = _share_of(log, experiment.log_share, experiment.seed)
    return Worlds(sim.spec, sim, real, log, hdf5.transitions(log), behaviour, more, pretended)


def _simulator(experiment: Experiment, field: str, reference: str) -> SimEnv:
    options = {"engine": experiment.engine, "threads": experiment.threads}
    if experiment.engine == "auto" and experiment.threads is None:
        options = {}  # a simulator without a physics engine need not know them
    sim = _build(factory(reference, field), field, reference, **options)
    if not isinstance(sim, SimEnv):
        raise Refused(f"--{field} {reference} made a {type(sim).__name__}; it must return a hybrid_jax.types.SimEnv")
    return sim


def _build(make: Callable, field: str, reference: str, **kwargs: Any) -> Any:
    try:
        return make(**kwargs)
    except Refused:
        raise
    except Exception as error:  # a user's factory may fail in any way; nothing has run yet
        raise Refused(f"--{field} {reference}: {type(error).__name__}: {error}") from error


def _instance(experiment: Experiment, spec: Spec, undo: ExitStack) -> RealEnv:
    """An instance of the real environment in this process, which judges policies."""
    mode = {"render_mode": "rgb_array"} if experiment.video else {}
    real = _build(factory(experiment.real, "real"), "real", experiment.real, **mode)
    missing = [
        name for name in ("observation_space", "action_space", "reset", "step", "close") if not hasattr(real, name)
    ]
    if missing:
        raise Refused(
            f"--real {experiment.real}: a {type(real).__name__} has no {', '.join(missing)}, as gymnasium asks"
        )
    undo.callback(real.close)
    if experiment.live.judge == "auto" and is_robot(real):
        raise Refused(
            f"--real {experiment.real} declares max_action_step, as robots do: --live.judge robot tests policies on it"
            " through gate and journal, --live.judge instance in this process, without them"
        )
    _check_spaces(real, spec, experiment.real)
    _check_reset(real, spec, experiment.real)
    if experiment.live.feed != "none":
        try:
            declared(real)
        except GateError as error:
            raise Refused(f"--real {experiment.real}: {error}") from error
    return real


def _check_spaces(real: RealEnv, spec: Spec, reference: str) -> None:
    for name, space, size in (
        ("observation", real.observation_space, spec.obs_size),
        ("action", real.action_space, spec.action_size),
    ):
        if not isinstance(space, gymnasium.spaces.Box) or space.shape != (size,):
            raise Refused(
                f"--real {reference}: its {name} space is {space}, the simulator's has {size} numbers;"
                f" wrap the environment so that both agree"
            )
    box = real.action_space
    if not (np.all(box.low == -1) and np.all(box.high == 1)):
        raise Refused(
            f"--real {reference}: its actions span {box.low} to {box.high}, not -1 to 1;"
            " wrap it in gymnasium.wrappers.RescaleAction(env, -1, 1)"
        )


def _check_reset(real: RealEnv, spec: Spec, reference: str) -> None:
    """One reset of the real environment, before hours are spent on training for it."""
    try:
        obs, _ = real.reset(seed=0)
    except Exception as error:  # any failure of a user's environment is told, not traced
        raise Refused(f"--real {reference}: reset(seed=0) failed with {type(error).__name__}: {error}") from error
    obs = np.asarray(obs)
    if obs.shape != (spec.obs_size,) or not np.all(np.isfinite(obs)):
        raise Refused(f"--real {reference}: reset gave {obs}; expected {spec.obs_size} finite numbers")


def _check_live(experiment: Experiment, spec: Spec) -> None:
    """A robot takes part in one run of one method; its numbers must make sense."""
    wanted = experiment.live
    if wanted.rate != "max" and not 0 < wanted.rate <= 10_000:
        raise Refused(f"--live.rate {wanted.rate:g} must be steps a second, at most 10,000, or max")
    if wanted.feed == "none":
        if wanted.recorded is not None:
            raise Refused(f"--live.recorded {wanted.recorded} needs --live.feed synchronous")
        return
    if wanted.feed == "synchronous" and wanted.rate != "max":
        raise Refused(
            f"--live.rate {wanted.rate:g}: with --live.feed synchronous the robot waits for the learner after every"
            " order, so it has no rate; give --live.feed threaded"
        )
    for name in ("max_reuse", "max_updates_without_real"):
        if wanted.feed == "synchronous" and getattr(wanted, name) is not None:
            raise Refused(f"--live.{name} is for --live.feed threaded; synchronous has --live.steps for an iteration")
    if experiment.seeds > 1 or experiment.rivals:
        raise Refused(f"--live.feed {wanted.feed}: one robot trains one policy; give --seeds 1 and --rivals ''")
    for name in ("steps", "capacity", "policy_every", "retries"):
        if getattr(wanted, name) < 1:
            raise Refused(f"--live.{name} {getattr(wanted, name)} must be at least 1")
    if wanted.steps > wanted.capacity:
        raise Refused(f"--live.steps {wanted.steps} do not fit into --live.capacity {wanted.capacity}")
    if wanted.recorded is not None:
        paths = segments.segments(wanted.recorded)
        schema = segments.read_schema(paths[0]) if paths else None
        if wanted.feed != "synchronous" or schema is None:
            raise Refused(
                f"--live.recorded {wanted.recorded} needs a folder with a journal and --live.feed synchronous"
            )
        if wanted.by_robot:
            raise Refused("--live.recorded is learned from without the robot: give --live.judge instance")
        box = spec.obs_size, spec.action_size
        if (schema.obs_size, schema.action_size) != box:
            raise Refused(f"--live.recorded {wanted.recorded} holds {schema.robot}'s steps, of another size than {box}")


def _check_robot(experiment: Experiment, spec: Spec) -> None:
    """Connects the robot, without moving it, before hours are spent on training for it."""

    def look(schema: Schema) -> None:
        size = schema.obs_size, schema.action_size
        if size != (spec.obs_size, spec.action_size):
            agreed = spec.obs_size, spec.action_size
            raise Refused(f"--real {experiment.real} has (observations, actions) {size}, the simulator {agreed}")
        if any(low != -1 for low in schema.action_low) or any(high != 1 for high in schema.action_high):
            span = f"{schema.action_low} to {schema.action_high}"
            raise Refused(f"--real {experiment.real}: its actions span {span}, not -1 to 1; scale them in its step")

    if experiment.video:
        raise Refused("--video needs an instance of the real environment to render: --live.judge instance")
    factory(experiment.real, "real")  # its own sentence for a name that does not exist
    with tempfile.TemporaryDirectory() as folder:
        try:
            live.probe(live.Place(experiment.live, experiment.real, 1, 0, Path(folder)), look)
        except RobotStopped as stopped:
            raise Refused(f"--real {experiment.real}: {stopped}") from stopped


def _first_rows(log: hdf5.Dataset, rows: int | None) -> hdf5.Dataset:
    if rows is None:
        return log
    if not 1 <= rows <= len(log.rewards):
        raise Refused(f"--log_rows {rows} must lie between 1 and the log's {len(log.rewards)}")
    return hdf5.Dataset(*(column[:rows] for column in log[:6]), notes=log.notes)


def _share_of(log: hdf5.Dataset, share: float, seed: int) -> hdf5.Dataset:
    """Exactly round(share D) rows: whole episodes in an order drawn by the seed, then a piece of the next one.

    The first rows of a replay log would be its worst; a number of rows that hangs on the seed would be another program.
    """
    if not 0.0 < share <= 1.0:
        raise Refused(f"--log_share {share:g} must be more than 0 and at most 1; 0.1 takes a tenth of the rows")
    if share == 1.0:
        return log
    rng, wanted = np.random.default_rng(seed), max(1, round(share * len(log.rewards)))
    ends = log.terminals | log.timeouts
    episodes = np.split(np.arange(len(ends)), np.flatnonzero(ends[:-1]) + 1)
    kept: list[np.ndarray] = []
    for i in rng.permutation(len(episodes)):
        missing = wanted - sum(map(len, kept))
        first = rng.integers(max(len(episodes[i]) - missing, 0) + 1)  # 0 where all of it is taken
        kept.append(episodes[i][first : first + missing])
        if len(kept[-1]) == missing:
            break
    rows = np.concatenate(kept)
    timeouts = log.timeouts[rows]
    timeouts[np.cumsum([len(piece) for piece in kept]) - 1] = True  # where a piece ends, the recording does
    timeouts &= ~log.terminals[rows]
    chosen = hdf5.Dataset(*(column[rows] for column in log[:6]), notes=log.notes)
    return chosen._replace(timeouts=timeouts)


def simulated_successors(sim: SimEnv, seed: int) -> np.ndarray:
    """Successors [D, O] of random actions in the simulator: the scale of observations before any real one is seen."""
    own = None if sim.physics is None else physics.batch_size(sim.model, sim.physics.mj_model)
    sims, spec = own or 64, sim.spec

    @jax.jit
    def rows(key):
        start_key, roll_key = jax.random.split(key)
        state = rollout.init(sim, start_key, sims, 1)
        explore = lambda obs, key: jax.random.uniform(key, (sims, spec.action_size), minval=-1.0)  # noqa: E731
        _, seen, valid, _ = rollout.rollout(sim, explore, state, roll_key, 100)
        return seen.next_obs, valid

    successors, valid = map(np.asarray, rows(jax.random.key(seed)))
    return successors[valid]


def check_video(real: RealEnv) -> None:
    if find_spec("imageio_ffmpeg") is None:
        raise Refused("--video needs the extra: pip install -e '.[video]'")
    unable = Refused("--video needs a real environment with render() in the mode rgb_array")
    if not callable(getattr(real, "render", None)):
        raise unable
    try:
        real.render()
    except NotImplementedError as error:  # gymnasium's own base class
        raise unable from error
    except Exception as error:  # a missing display driver shows itself in many ways
        raise Refused(f"--video: render() failed with {type(error).__name__}: {error}; try MUJOCO_GL=egl") from error
