"""Everything that can be refused is refused here, before anything is compiled."""

import json
import os
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
from experiments.experiment import FREE, Experiment, Refused, factory, identity_of, rival
from hybrid_jax import buffers, dynamics_gap, physics, rollout, trainer
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.config import json_diff, to_json
from hybrid_jax.datasets import hdf5, scores
from hybrid_jax.real import segments
from hybrid_jax.real.gate import GateError, declared
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.settings import RobotStopped
from hybrid_jax.types import REAL, Algorithm, RealEnv, SimEnv, Spec, Transition


class Worlds(NamedTuple):
    """The environments and the data of an experiment, ready for use."""

    spec: Spec
    sim: SimEnv
    real: RealEnv | None  # the instance that judges; None where the robot itself does
    log: hdf5.Dataset | None  # the real data as recorded
    rows: Transition | None  # the same in the stores' form, leaves [D, ...] numpy
    behaviour_return: float | None  # mean over the log's complete episodes


class Ready(NamedTuple):
    """A run that may start: its worlds, and a learner with its config for the run and each rival."""

    worlds: Worlds
    learners: dict[str, tuple[Experiment, Algorithm]]


def prepare(experiment: Experiment, resumed: Path | None) -> Ready:
    """Builds the worlds and learners. Raises Refused or ConfigError with one sentence for the user.

    resumed: the folder of an earlier run to go on with.
    """
    _check_numbers(experiment)
    if resumed is None:
        _check_writable(experiment.runs)
    else:
        _check_writable(resumed)
        _check_same_run(experiment, resumed)
    if experiment.compile_cache:
        use_compile_cache()
    with ExitStack() as undo:  # a real environment that was opened for a refused run is closed
        try:
            worlds = _worlds(experiment, undo)
            methods = {"h2o" if isinstance(experiment.algorithm, h2o.Config) else "sac": experiment}
            methods |= {name: rival(experiment, name) for name in experiment.rivals}
            learners = {name: (method, _learner(method, worlds)) for name, method in methods.items()}
            for method, algorithm in learners.values():
                trainer.make(worlds.spec, (worlds.sim,), algorithm, method.rates, real_capacity(method, worlds))
                _check_mix(algorithm, worlds, method)
        except ValueError as error:
            raise Refused(str(error)) from error
        _check_memory(experiment, worlds)
        if experiment.video:
            _check_video(worlds.real)  # of the instance that judges
        undo.pop_all()
    return Ready(worlds, learners)


def use_compile_cache() -> None:
    """Keeps compiled programs in a folder that only this user can read, for the next start."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "hybrid_jax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)  # fails where the folder is another user's, whose programs must not run here
    except OSError as error:
        raise Refused(f"the compile cache {folder} cannot be used ({error}); give --compile_cache false") from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _check_numbers(experiment: Experiment) -> None:
    for name in ("updates", "evaluate_every", "episodes", "test_episodes", "seeds", "checkpoint_every"):
        if getattr(experiment, name) < 1:
            raise Refused(f"--{name} {getattr(experiment, name)} must be at least 1")
    each = experiment.rates.updates
    for name in ("updates", "evaluate_every"):
        value = getattr(experiment, name)
        if each > 0 and value % each:
            raise Refused(f"--{name} {value} is no multiple of --rates.updates {each}; take {-(-value // each) * each}")


def _check_same_run(experiment: Experiment, resumed: Path) -> None:
    """A resumed run keeps its config, but for what FREE names, and its log."""
    try:
        before = json.loads((resumed / "config.json").read_text())
        identity = json.loads((resumed / "run.json").read_text())["identity"]
    except (OSError, ValueError, KeyError) as error:
        raise Refused(f"--resume {resumed}: its config.json or run.json is damaged ({error}); start anew") from error
    now = to_json(experiment)
    for values in (before, now):
        values.update({name: None for name in FREE})
    old = json_diff(before, now)
    changed = [f"--{name} {value} was {old.get(name, 'not there')}" for name, value in json_diff(now, before).items()]
    if changed:
        raise Refused(f"{resumed} is another run: {'; '.join(changed)}; start a new run for it")
    if experiment.dataset is not None and not experiment.dataset.exists():
        raise Refused(f"--dataset {experiment.dataset}: no such file")
    if identity_of(experiment) != identity:
        raise Refused(
            f"--dataset {experiment.dataset} is not the log that {resumed} learned from; start a new run for it"
        )


def _build(make: Callable, field: str, reference: str, **kwargs: Any) -> Any:
    try:
        return make(**kwargs)
    except Refused:
        raise
    except Exception as error:  # a user's factory may fail in any way; nothing has run yet
        raise Refused(f"--{field} {reference}: {type(error).__name__}: {error}") from error


def _worlds(experiment: Experiment, undo: ExitStack) -> Worlds:
    make_sim = factory(experiment.sim, "sim")
    options = {"engine": experiment.engine, "threads": experiment.threads}
    if experiment.engine == "auto" and experiment.threads is None:
        options = {}  # a simulator without a physics engine need not know them
    sim = _build(make_sim, "sim", experiment.sim, **options)
    if not isinstance(sim, SimEnv):
        raise Refused(f"--sim {experiment.sim} made a {type(sim).__name__}; it must return a hybrid_jax.types.SimEnv")
    sim = gap.apply(sim, experiment.gap)
    _check_live(experiment, sim.spec)
    by_robot = experiment.live.feed != "none" and experiment.live.judge == "robot"
    real = None if by_robot else _instance(experiment, sim.spec, undo)
    if by_robot:
        _check_robot(experiment, sim.spec)
    for index, name, _, _ in experiment.columns:
        if not 0 <= index < sim.spec.obs_size:
            raise Refused(f"--columns: {name!r} is observation {index}, but there are {sim.spec.obs_size}")
    if experiment.dataset is None:
        return Worlds(sim.spec, sim, real, None, None, None)
    log = _first_rows(hdf5.load(experiment.dataset, sim.spec), experiment.log_rows)
    whole = bool(np.any(log.terminals | log.timeouts))
    return Worlds(sim.spec, sim, real, log, hdf5.transitions(log), scores.behaviour_return(log) if whole else None)


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
    _check_spaces(real, spec, experiment.real)
    _check_reset(real, spec, experiment.real)
    if experiment.live.feed != "none":
        try:
            declared(real)
        except GateError as error:
            raise Refused(f"--real {experiment.real}: {error}") from error
    return real


def _first_rows(log: hdf5.Dataset, rows: int | None) -> hdf5.Dataset:
    if rows is None:
        return log
    if not 1 <= rows <= len(log.rewards):
        raise Refused(f"--log_rows {rows} must lie between 1 and the log's {len(log.rewards)}")
    return hdf5.Dataset(*(column[:rows] for column in log[:6]), notes=log.notes)


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


def _check_live(experiment: Experiment, spec: Spec) -> None:
    """A robot takes part in one run of one method; its numbers must make sense."""
    wanted = experiment.live
    if wanted.feed == "none":
        return
    if experiment.seeds > 1 or experiment.rivals:
        raise Refused(f"--live.feed {wanted.feed}: one robot trains one policy; give --seeds 1 and --rivals ''")
    for name in ("steps", "capacity", "policy_every", "retries"):
        if getattr(wanted, name) < 1:
            raise Refused(f"--live.{name} {getattr(wanted, name)} must be at least 1")
    if wanted.steps > wanted.capacity:
        raise Refused(f"--live.steps {wanted.steps} do not fit into --live.capacity {wanted.capacity}")
    if wanted.rate != "max" and not 0 < wanted.rate <= 10_000:
        raise Refused(f"--live.rate {wanted.rate:g} must be steps a second, at most 10,000, or max")
    if wanted.recorded is not None:
        paths = segments.segments(wanted.recorded)
        schema = segments.read_schema(paths[0]) if paths else None
        if wanted.feed != "synchronous" or schema is None:
            raise Refused(
                f"--live.recorded {wanted.recorded} needs a folder with a journal and --live.feed synchronous"
            )
        if wanted.judge == "robot":
            raise Refused("--live.recorded is learned from without the robot: give --live.judge instance")
        box = spec.obs_size, spec.action_size
        if (schema.obs_size, schema.action_size) != box:
            raise Refused(f"--live.recorded {wanted.recorded} holds {schema.robot}'s steps, of another size than {box}")


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


def _learner(experiment: Experiment, worlds: Worlds) -> Algorithm:
    if isinstance(experiment.algorithm, h2o.Config):
        if worlds.rows is None and experiment.live.feed == "none":
            raise Refused("H2O learns from real data as well: give it a log with --dataset path.hdf5")
        seen = simulated_successors(worlds.sim, experiment.seed) if worlds.rows is None else worlds.rows.next_obs
        std = dynamics_gap.next_obs_std(seen, experiment.algorithm.next_state_jitter)
        return h2o.make(experiment.algorithm, worlds.spec, std)
    return sac.make(experiment.algorithm, worlds.spec)


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


def real_capacity(experiment: Experiment, worlds: Worlds) -> int:
    """Rows that the real store must hold: the log's, and what a robot may add."""
    return _real_rows(worlds) + (0 if experiment.live.feed == "none" else experiment.live.capacity)


def _real_rows(worlds: Worlds) -> int:
    return 0 if worlds.rows is None else len(worlds.rows.reward)


def _check_mix(algorithm: Algorithm, worlds: Worlds, experiment: Experiment) -> None:
    source = np.asarray(algorithm.mix(jax.random.key(0)))
    if np.any(source == REAL) and real_capacity(experiment, worlds) == 0:
        raise Refused(
            f"--algorithm.batch_real {experiment.algorithm.batch_real} draws real rows, but there are none;"
            " give --dataset path.hdf5 or set it to 0"
        )


def _check_memory(experiment: Experiment, worlds: Worlds) -> None:
    capacities = (max(real_capacity(experiment, worlds), 1), experiment.rates.sim_capacity)
    seeds = experiment.seeds if jax.default_backend() != "cpu" else 1
    need = seeds * buffers.memory_bytes(capacities, trainer.example_row(worlds.spec))
    free = available_memory()
    if need > 0.8 * free:
        raise Refused(
            f"the stores need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free;"
            f" lower --rates.sim_capacity {experiment.rates.sim_capacity}"
        )


def available_memory() -> int:
    """Free bytes where the stores will lie: the accelerator's memory, or the host's."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_writable(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs):
            pass
    except OSError as error:
        raise Refused(f"--runs {runs} cannot be written ({error.strerror}); give a folder of your own") from error


def _check_video(real: RealEnv) -> None:
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
