"""Everything that can be refused is refused here, before anything is compiled."""

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import methods, rates
from experiments.experiment import FREE, Experiment, Refused, identity_of
from experiments.worlds import Worlds, build, check_video, simulated_successors
from hybrid_jax import buffers, trainer
from hybrid_jax.algorithms import h2o
from hybrid_jax.config import json_diff, to_json
from hybrid_jax.datasets import extras
from hybrid_jax.scaling import Moments
from hybrid_jax.types import REAL, Algorithm, Transition


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
            worlds = build(experiment, undo)
            wanted = methods.rivals(experiment)
            wanted = {name: rates.applied(method) for name, method in wanted.items()}
            learners = {name: (method, _learner(method, worlds)) for name, method in wanted.items()}
            for method, algorithm in learners.values():
                made(method, worlds, algorithm)
                _check_mix(algorithm, worlds, method)
        except ValueError as error:
            raise Refused(str(error)) from error
        _check_memory(learners, worlds)
        if experiment.video:
            check_video(worlds.real)  # of the instance that judges
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
    at_least_one = ("updates", "evaluate_every", "episodes", "test_episodes", "seeds", "checkpoint_every")
    for name in (*at_least_one, "max_bad_updates"):
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


def _learner(experiment: Experiment, worlds: Worlds) -> Algorithm:
    live = experiment.live.feed != "none"
    if worlds.rows is not None:
        moments = Moments.of(worlds.rows.obs, worlds.rows.next_obs)
    elif isinstance(experiment.algorithm, h2o.Config):
        if not live and not _pretends(experiment, worlds):
            raise Refused("H2O learns from real data as well: give it a log with --dataset path.hdf5")
        seen = simulated_successors(worlds.sim, experiment.seed)
        moments = Moments.of(seen, seen)
    else:
        moments = None
    algorithm = methods.make(experiment.algorithm, worlds.spec, moments, worlds.sim.goal)
    if algorithm.episodes and (live or worlds.rows is not None):
        raise Refused(
            f"--method {methods.label(experiment)} with goals stores whole episodes, which neither a log's rows nor a"
            " robot's are; give --dataset none and a simulator as --pretended"
        )
    if algorithm.extras and live:
        raise Refused(
            f"--method {methods.label(experiment)} learns from a log alone, a robot's rows lack"
            f" {algorithm.extras[0][0]}; give --live.feed none"
        )
    return algorithm


def made(experiment: Experiment, worlds: Worlds, algorithm: Algorithm) -> trainer.Trainer:
    """The run's functions. Raises Refused, ValueError where its parts do not fit together."""
    places = _places(experiment, worlds)
    mixed = rates.mixed(experiment, places)
    return trainer.make(
        worlds.spec,
        places.sims,
        algorithm,
        experiment.rates,
        real_capacity(experiment, worlds),
        mixed,
        places.pretended,
    )


def _places(experiment: Experiment, worlds: Worlds) -> rates.Places:
    """The environments that a learner collects from: no simulator where it draws real rows alone."""
    sims = (worlds.sim, *worlds.more_sims) if methods.simulates(experiment.algorithm) else ()
    return rates.Places(sims, worlds.pretended if _pretends(experiment, worlds) else None)


def _pretends(experiment: Experiment, worlds: Worlds) -> bool:
    """Whether a learner's program visits a pretended reality: at rates alone, and where it learns from it."""
    return worlds.pretended is not None and bool(experiment.pretended) and experiment.algorithm.mixing != "counts"


def real_rows(algorithm: Algorithm, worlds: Worlds) -> Transition | None:
    """The log in the stores' form, with the columns that an algorithm declares."""
    if worlds.rows is None or worlds.log is None or not algorithm.extras:
        return worlds.rows
    return worlds.rows._replace(extras=extras.columns(worlds.log, [name for name, _ in algorithm.extras]))


def real_capacity(experiment: Experiment, worlds: Worlds) -> int:
    """Rows that the real store must hold: the log's, and what a robot, or who plays it, may add."""
    robots = 0 if experiment.live.feed == "none" else experiment.live.capacity
    return _real_rows(worlds) + robots + (experiment.rates.sim_capacity if _pretends(experiment, worlds) else 0)


def _real_rows(worlds: Worlds) -> int:
    return 0 if worlds.rows is None else len(worlds.rows.reward)


def _check_mix(algorithm: Algorithm, worlds: Worlds, experiment: Experiment) -> None:
    beta = None if experiment.algorithm.mixing == "counts" else jnp.float32(experiment.beta or experiment.q)
    source = np.asarray(algorithm.mix(jax.random.key(0), beta))
    if np.any(source == REAL) and real_capacity(experiment, worlds) == 0:
        raise Refused(f"{methods.label(experiment)} draws real rows, but there are none; give --dataset path.hdf5")


def _check_memory(learners: dict[str, tuple[Experiment, Algorithm]], worlds: Worlds) -> None:
    for experiment, algorithm in learners.values():
        _check_one(experiment, algorithm, worlds)


def _check_one(experiment: Experiment, algorithm: Algorithm, worlds: Worlds) -> None:
    capacities = [max(real_capacity(experiment, worlds), 1)]
    capacities += [experiment.rates.sim_capacity for _ in _places(experiment, worlds).sims]
    seeds = experiment.seeds if jax.default_backend() != "cpu" else 1
    need = seeds * buffers.memory_bytes(capacities, trainer.example_row(worlds.spec, algorithm.extras))
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
