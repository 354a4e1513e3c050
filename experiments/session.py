"""A whole run: folder, training of the learner and its rivals, the test of each policy."""

import contextlib
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from experiments import live, results, training
from experiments.experiment import ROOT, Experiment, Refused, identity_of
from experiments.judging import TEST_SEED
from experiments.preflight import Ready
from experiments.stopping import Stop
from experiments.worlds import Worlds
from hybrid_jax import evaluate
from hybrid_jax.config import diff, to_json
from hybrid_jax.export import NumpyPolicy, save_policy
from hybrid_jax.guards import BadUpdates
from hybrid_jax.metrics import read_csv, write_atomically
from hybrid_jax.provenance import git_state
from hybrid_jax.real.segments import JournalError
from hybrid_jax.real.settings import Halted, RobotStopped

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "chex", "mujoco", "mujoco-mjx", "brax", "orbax-checkpoint", "numpy", "h5py",
    "gymnasium",
)  # fmt: skip


def run(experiment: Experiment, ready: Ready, arguments: list[str], folder: Path | None, started: float) -> int:
    """Trains, tests and reports; returns the exit code. The real environment is closed in any case.

    Raises StopNow where a signal came and there was nothing to save, or a second one.
    """
    console = Console(highlight=False, soft_wrap=True)
    with contextlib.ExitStack() as owned:
        if ready.worlds.real is not None:
            owned.enter_context(contextlib.closing(ready.worlds.real))
        stop = owned.enter_context(Stop())
        folder = _new_folder(experiment) if folder is None else folder
        earlier = _seconds(folder)
        origin = _write_origin(experiment, arguments, folder, earlier)
        _introduce(console, experiment, ready.worlds, folder)
        trained: dict[str, list[dict]] = {}
        try:
            for method, (settings, algorithm) in ready.learners.items():
                home = folder if not trained else folder / "rivals" / method
                trained[method] = _train_method(settings, algorithm, ready.worlds, method, home, stop)
        except (RobotStopped, JournalError) as stopped:
            console.print(f"the robot stopped: {stopped}")
            console.print(f"its data are kept; go on with: python experiments/run.py --resume {folder}")
            return 3
        except BadUpdates as bad:
            console.print(f"the numbers went bad: {bad}")
            console.print(f"the state before is kept in {folder}; look at {folder / 'metrics.csv'} first")
            return 4
        except (training.Interrupted, Halted):
            assert stop.wanted is not None
            console.print(f"stopped; go on with: python experiments/run.py --resume {folder}")
            return 128 + stop.wanted
        finally:
            seconds = earlier + time.monotonic() - started
            try:
                _write_record(folder, origin | {"seconds": seconds})
            except OSError as error:  # what the run itself had to say comes first
                console.print(f"warning: the time taken could not be written to {folder / 'run.json'} ({error})")
        results.show(console, experiment, ready.worlds, folder, trained, seconds)
    return 0


def _new_folder(experiment: Experiment) -> Path:
    stem = f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for attempt in range(100):
        folder = experiment.runs / (stem if attempt == 0 else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise Refused(f"{experiment.runs} holds 100 runs of this second; clear it or give another --runs")


def _seconds(folder: Path) -> float:
    """Wall-clock seconds that earlier parts of a run took; a part that was killed did not write its own down."""
    path = folder / "run.json"
    return json.loads(path.read_text()).get("seconds", 0.0) if path.exists() else 0.0


def _write_origin(experiment: Experiment, arguments: list[str], folder: Path, seconds: float) -> dict:
    """What was asked, and of which code and packages; on a resume, what is asked now. Returns the record."""
    record = {
        "arguments": arguments,
        "git": git_state(ROOT),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "device": str(jax.devices()[0]),
        "seconds": seconds,
        "identity": identity_of(experiment),
    }
    write_atomically(folder / "config.json", json.dumps(to_json(experiment), indent=2) + "\n")
    _write_record(folder, record)
    return record


def _write_record(folder: Path, record: dict) -> None:
    write_atomically(folder / "run.json", json.dumps(record, indent=2) + "\n")


def _introduce(console: Console, experiment: Experiment, worlds: Worlds, folder: Path) -> None:
    engine = "closed form" if worlds.sim.physics is None else worlds.sim.physics.engine
    log = "none"
    if worlds.log is not None:
        log = f"{len(worlds.log.rewards):,} real rows, behaviour return {_shown(worlds.behaviour_return)}"
    console.print(f"run      {folder}")
    console.print(f"device   {jax.devices()[0].device_kind} ({jax.default_backend()}), simulator engine: {engine}")
    console.print(f"log      {log}")
    for note in worlds.log.notes if worlds.log is not None else ():
        console.print(f"         {note}", markup=False)
    changed = diff(experiment.gap, type(experiment.gap)())
    if changed:
        console.print("gap      " + ", ".join(f"{name} {value}" for name, value in changed.items()))


def _train_method(experiment: Experiment, algorithm, worlds: Worlds, method: str, home: Path, stop: Stop) -> list[dict]:
    """Trains one method on every seed and tests it; finished seeds are read back, not trained again."""
    seeds = list(range(experiment.seed, experiment.seed + experiment.seeds))
    folders = [home if len(seeds) == 1 else home / f"seed{seed}" for seed in seeds]
    together = len(seeds) > 1 and jax.default_backend() != "cpu"
    groups = [(seeds, folders)] if together else [([s], [f]) for s, f in zip(seeds, folders, strict=True)]
    compiled, tested = training.program(experiment, worlds, algorithm, together), []
    for group, places in groups:
        if not all(_finished(place, experiment) for place in places):
            label = method if len(seeds) == 1 else f"{method} seed {', '.join(map(str, group))}"
            outcomes = training.train(experiment, worlds, algorithm, group, places, label, stop, compiled)
            for place, outcome, seed in zip(places, outcomes, group, strict=True):
                test(experiment, worlds, outcome, place, seed, stop)
        tested += [json.loads((place / "result.json").read_text()) | {"folder": place} for place in places]
    return tested


def _finished(place: Path, experiment: Experiment) -> bool:
    """Whether a method was tested at this budget; a larger one trains it further."""
    path = place / "result.json"
    return path.exists() and json.loads(path.read_text())["updates"] >= experiment.updates


def _shown(value: float | None) -> str:
    return "unknown (no complete episode)" if value is None else f"{value:,.0f}"


def test(
    experiment: Experiment, worlds: Worlds, outcome: training.Outcome, folder: Path, seed: int, stop: Stop
) -> None:
    """Judges the kept policy once, on real episodes that no training run has seen, and writes it down."""
    contract = {"dt": worlds.spec.dt, "task": experiment.real, "seed": seed, "updates": outcome.updates}
    save_policy(folder / "policy", outcome.actor, contract)
    if worlds.real is None:
        place = training.robot_of(experiment, worlds.spec, folder, seed)
        steps = experiment.test_episodes * worlds.spec.episode_length
        longest = "" if place.live.rate == "max" else f", at most {steps / place.live.rate:,.0f} s"
        print(f"the policy is tested on the robot: {experiment.test_episodes} episodes{longest}", flush=True)
        with stop.polled():
            episodes = live.judged(place, outcome.actor, outcome.updates, experiment.test_episodes, stop)
    else:
        policy = NumpyPolicy.load(folder / "policy")
        episodes = evaluate.real_episodes(
            worlds.real, policy, experiment.test_episodes, TEST_SEED, worlds.spec.episode_length
        )
    worst = min(episodes, key=lambda episode: episode.total)
    np.savez_compressed(folder / "worst_episode.npz", obs=worst.obs, actions=worst.actions, rewards=worst.rewards)
    result = {
        "seed": seed,
        "real_returns": [episode.total for episode in episodes],
        "lengths": [len(episode.rewards) for episode in episodes],
        "falls": sum(episode.terminated for episode in episodes),
        "worst_fell": worst.terminated,
        "sim_return": float(read_csv(folder / "metrics.csv")["sim_return"][-1]),
        "updates": outcome.updates,
        "sim_steps": outcome.sim_steps,
        "real_steps": outcome.real_steps,
    }
    if worlds.sim.success is not None:
        result["successes"] = sum(bool(worlds.sim.success(episode.obs[-1])) for episode in episodes)
    write_atomically(folder / "result.json", json.dumps(result, indent=2) + "\n")
