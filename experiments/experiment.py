"""What an experiment is: a frozen dataclass that names its worlds, its data, its algorithm and its budget.

Every experiment file holds `config() -> Experiment`; the command line overrides any field.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from envs.gap import Gap
from experiments.live import Live
from hybrid_jax import actor_critic, trainer
from hybrid_jax.algorithms import h2o
from hybrid_jax.config import ConfigError, config_hash
from hybrid_jax.mixing import Way
from hybrid_jax.physics import Engine

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


class Refused(Exception):
    """The run cannot start as asked: one sentence with the name, the value and the cure."""


@dataclass(frozen=True)
class Experiment:
    """One training run and its yardsticks."""

    name: str = "wheel_legged_h2o"  # of the run's folder
    sim: str = "envs.wheel_legged:make"  # module:factory of the simulator
    real: str = "envs.wheel_legged:make_real"  # module:factory of the real environment (gymnasium interface)
    gap: Gap = Gap()  # what is made wrong with the simulator on top of its own faults
    more_sims: tuple[str, ...] = ()  # module:factory of each further simulator; they have a store each
    pretended: str = ""  # module:factory of a simulator that plays reality while learning, its rows in the real store
    engine: Engine = "auto"  # physics engine of the simulators: auto, native, mjx or mjx-warp
    threads: int | None = None  # host threads of the native engine; None: one per core
    dataset: Path | None = DATA / "wheel_legged.hdf5"  # log of real data: D4RL layout (HDF5, npz) or Minari
    log_rows: int | None = None  # use only so many of its first rows; None: all
    log_share: float = 1.0  # use only this share of those rows: whole episodes drawn by the seed, the last one cut
    live: Live = Live()  # a robot that takes part
    algorithm: actor_critic.Config = h2o.Config()  # the learner; --method NAME takes another one
    method: str = ""  # the learner's name, where --method has chosen it
    rates: trainer.Rates = trainer.Rates()  # what one iteration collects and learns
    q: tuple[float, ...] = ()  # rates of collection: reality, the simulators; (): every simulator in every iteration
    beta: tuple[float, ...] = ()  # rates of use, in the same order; (): as q, or the algorithm's counts without one
    strategy: Literal["mixed", "sim_dependent", "sim_first"] = "mixed"  # when reality is visited: `schedules.strategy`
    strategy_threshold: float = 0.7  # share of successes of a simulator's exploring episodes that it waits for
    later_beta: tuple[float, ...] = ()  # where beta moves to ...
    later_after: int | Literal["success"] = (
        0  # ... evenly in so many updates, or at once when the strategy's time comes
    )
    reuse_cap: float | None = None  # beta is lowered where a control step would be drawn more often than so on average
    fallback: Literal["others", "newest"] = (
        "others"  # who has an empty store's share: all others, or the one filled last
    )
    visits: Way = "quotas"  # how an iteration's rollout is shared out by q: quotas, rows, or store, one for all of it
    updates: int = 20_000  # updates in all
    evaluate_every: int = 2_000  # updates between evaluations in the real environment
    episodes: int = 3  # real episodes per evaluation
    test_episodes: int = 10  # real episodes that judge the kept policy, once, at the end
    rivals: tuple[str, ...] = ("sim_only", "mix")  # methods trained beside it with the same budget
    seed: int = 0  # of the first run
    seeds: int = 1  # runs: seed, seed + 1, ...
    checkpoint_every: int = 1  # evaluations between checkpoints
    max_bad_updates: int = 1_000  # updates in a row that may be left out as not finite before the run stops
    runs: Path = Path("runs")  # folder of all runs
    tensorboard: bool = True  # also write TensorBoard events
    video: bool = False  # also write video.mp4 of the real environment (extra: video)
    compile_cache: bool = True  # keep compiled programs in a private folder for the next start
    columns: tuple[tuple[int, str, str, float], ...] = ()  # observations to plot: index, name, unit, factor


def load(name: str) -> Experiment:
    """The experiment of that name in this folder, or in a user's own file `path/to/mine.py`.

    Raises ConfigError with the known names.
    """
    module = from_path(Path(name)) if name.endswith(".py") else _by_name(name)
    if not hasattr(module, "config"):
        raise ConfigError(f"{name} has no function config(); an experiment file returns its Experiment from it")
    made = module.config()
    if not isinstance(made, Experiment):
        raise ConfigError(f"{name}: its config() returns a {type(made).__name__}; return an Experiment")
    return made


# What a resumed run may be given anew; everything else, and the bytes of the log, makes it another run.
FREE = {"updates": 0, "runs": Path(), "dataset": None, "video": False, "tensorboard": False, "rivals": ()}


def identity_of(experiment: Experiment) -> str:
    """What checkpoints and results belong to."""
    return f"{config_hash(replace(experiment, **FREE))}-{log_digest(experiment.dataset)}"


def log_digest(log: Path | None) -> str:
    """SHA-256 of a log's bytes, of all files where it is a folder; of nothing where there is none."""
    digest = hashlib.sha256()
    if log is not None:
        for path in sorted(log.rglob("*")) if log.is_dir() else [log]:
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def names() -> list[str]:
    """The experiments in this folder: the files that define config()."""
    here = Path(__file__).parent
    return sorted(path.stem for path in here.glob("*.py") if "\ndef config(" in path.read_text())


def _by_name(name: str) -> ModuleType:
    if name not in names():
        raise ConfigError(f"no experiment {name!r}; the known ones: {', '.join(names())}, or a path to a .py file")
    return importlib.import_module(f"experiments.{name}")


def from_path(path: Path) -> ModuleType:
    """The module in a user's own file. Raises ConfigError where there is none."""
    if not path.is_file():
        raise ConfigError(f"no experiment file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def factory(reference: str, field: str) -> Callable[..., Any]:
    """The function behind `module:factory`. Raises ConfigError with the field's name and the cure."""
    module, colon, function = reference.partition(":")
    if not colon:
        raise ConfigError(f"--{field} {reference!r} is not of the form module:factory, e.g. envs.wheel_legged:make")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a user's own module lies where the command is called
    try:
        found = importlib.import_module(module)
    except (ModuleNotFoundError, ValueError, TypeError) as error:  # not there, an empty or a relative name
        raise ConfigError(f"--{field} {reference!r}: {error}; is it on the Python path?") from error
    if not callable(getattr(found, function, None)):
        raise ConfigError(f"--{field} {reference!r}: module {module} has no function {function!r}")
    return getattr(found, function)
