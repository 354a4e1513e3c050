"""A whole run: folder, training of the learner and its rivals, the test, pictures and summary."""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments import training
from experiments.experiment import ROOT, Experiment, Refused
from experiments.preflight import Ready, Worlds
from hybrid_jax import evaluate, report, statistics
from hybrid_jax.config import diff, to_json
from hybrid_jax.export import NumpyPolicy, save_policy
from hybrid_jax.metrics import read_csv, write_atomically
from hybrid_jax.provenance import git_state

PACKAGES = ("jax", "flax", "optax", "mujoco", "mujoco-mjx", "orbax-checkpoint", "numpy", "gymnasium")
KEPT = (
    "the policy after the last update of the budget, its weights averaged over the last updates where"
    " policy_average is set; no evaluation chooses it"
)


def run(experiment: Experiment, ready: Ready, arguments: list[str], folder: Path | None, started: float) -> int:
    """Trains, tests and reports; returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    folder = _new_folder(experiment) if folder is None else folder
    _write_origin(experiment, arguments, folder)
    _introduce(console, experiment, ready.worlds, folder)
    results: dict[str, list[dict]] = {}
    try:
        for method, (settings, algorithm) in ready.learners.items():
            home = folder if not results else folder / "rivals" / method
            results[method] = _train_method(settings, algorithm, ready.worlds, method, home)
    except Refused as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except training.Interrupted:
        console.print(f"stopped; go on with: python experiments/run.py --resume {folder}")
        return 130
    _report(console, experiment, ready.worlds, folder, results, time.monotonic() - started)
    ready.worlds.real.close()
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


def _write_origin(experiment: Experiment, arguments: list[str], folder: Path) -> None:
    """What was asked, and of which code and packages; on a resume, what is asked now."""
    record = {
        "arguments": arguments,
        "git": git_state(ROOT),
        "versions": {name: version(name) for name in PACKAGES},
        "device": str(jax.devices()[0]),
    }
    write_atomically(folder / "config.json", json.dumps(to_json(experiment), indent=2) + "\n")
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


def _train_method(experiment: Experiment, algorithm, worlds: Worlds, method: str, home: Path) -> list[dict]:
    """Trains one method on every seed and tests it; finished seeds are read back, not trained again."""
    seeds = list(range(experiment.seed, experiment.seed + experiment.seeds))
    folders = [home if len(seeds) == 1 else home / f"seed{seed}" for seed in seeds]
    together = len(seeds) > 1 and jax.default_backend() != "cpu"
    groups = [(seeds, folders)] if together else [([s], [f]) for s, f in zip(seeds, folders, strict=True)]
    results = []
    for group, places in groups:
        if not all(_finished(place, experiment) for place in places):
            label = method if len(seeds) == 1 else f"{method} seed {', '.join(map(str, group))}"
            outcomes = training.train(experiment, worlds, algorithm, group, places, label)
            for place, outcome, seed in zip(places, outcomes, group, strict=True):
                _test(experiment, worlds, outcome, place, seed)
        results += [json.loads((place / "result.json").read_text()) | {"folder": place} for place in places]
    return results


def _finished(place: Path, experiment: Experiment) -> bool:
    """Whether a method was tested at this budget; a larger one trains it further."""
    path = place / "result.json"
    return path.exists() and json.loads(path.read_text())["updates"] >= experiment.updates


def _shown(value: float | None) -> str:
    return "unknown (no complete episode)" if value is None else f"{value:,.0f}"


def _test(experiment: Experiment, worlds: Worlds, outcome: training.Outcome, folder: Path, seed: int) -> None:
    """Judges the kept policy once, on real episodes that no training run has seen, and writes it down."""
    contract = {"dt": worlds.spec.dt, "task": experiment.real, "seed": seed, "updates": outcome.updates}
    save_policy(folder / "policy", outcome.actor, contract)
    policy = NumpyPolicy.load(folder / "policy")
    episodes = evaluate.real_episodes(
        worlds.real, policy, experiment.test_episodes, training.TEST_SEED, worlds.spec.episode_length
    )
    np.savez_compressed(
        folder / "test_episode.npz",
        obs=episodes[0].obs,
        actions=episodes[0].actions,
        rewards=episodes[0].rewards,
    )
    result = {
        "seed": seed,
        "real_returns": [episode.total for episode in episodes],
        "lengths": [len(episode.rewards) for episode in episodes],
        "falls": sum(episode.terminated for episode in episodes),
        "first_fell": episodes[0].terminated,
        "sim_return": float(read_csv(folder / "metrics.csv")["sim_return"][-1]),
        "updates": outcome.updates,
        "sim_steps": outcome.sim_steps,
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=2) + "\n")


def _judged(results: list[dict]) -> dict[str, Any]:
    """Mean, spread and interval: over test episodes for one seed, over the seeds' means for several."""
    means = [float(np.mean(result["real_returns"])) for result in results]
    values = results[0]["real_returns"] if len(results) == 1 else means
    mean, std = statistics.mean_std(values)
    return {
        "real_return_mean": mean,
        "real_return_std": std,
        "real_return_ci95": list(statistics.bootstrap_ci(values)),
        "real_falls": sum(result["falls"] for result in results),
        "test_episodes": sum(len(result["real_returns"]) for result in results),
        "sim_return_mean": float(np.mean([result["sim_return"] for result in results])),
    }


def _report(
    console: Console, experiment: Experiment, worlds: Worlds, folder: Path, results: dict, seconds: float
) -> None:
    judged = {method: _judged(seeds) for method, seeds in results.items()}
    (main, ours), *rivals = judged.items()
    first = results[main][0]
    summary = ours | {
        "behaviour_return": worlds.behaviour_return,
        "updates": first["updates"],
        "real_steps": 0 if worlds.rows is None else len(worlds.rows.reward),
        "sim_steps": first["sim_steps"],
        "wall_seconds": seconds,
        "seed": experiment.seed,
        "seeds": experiment.seeds,
        "method": main,
        "kept_policy": KEPT,
        "rivals": dict(rivals),
    }
    report.write_summary(folder / "summary.json", summary)
    title = experiment.name.replace("_", " ").replace("h2o", "H2O")
    report.plot_curve(folder / "curve.png", _curves(results), worlds.behaviour_return, title)
    if experiment.columns:
        columns = [(name, unit) for _, name, unit, _ in experiment.columns]
        report.plot_episodes(folder / "episodes.png", _episodes(experiment, worlds, results), columns, title)
    if experiment.video:
        _video(worlds, results[main][0]["folder"] / "policy", folder / "video.mp4")
    rows = [
        report.Row(
            name,
            each["real_return_mean"],
            tuple(each["real_return_ci95"]),
            each["real_falls"],
            each["test_episodes"],
            each["sim_return_mean"],
        )
        for name, each in judged.items()
    ]
    if worlds.behaviour_return is not None:
        rows.append(report.Row("logged behaviour", worlds.behaviour_return))
    console.print(report.summary_table(rows))
    if experiment.seeds > 1:
        for name, each in judged.items():
            console.print(f"{name}: {each['real_return_mean']:,.0f} +- {each['real_return_std']:,.0f} over seeds")
    made = [name for name in ("curve.png", "episodes.png", "video.mp4") if (folder / name).exists()]
    console.print(f"{seconds:.0f} s; look at {', '.join(str(folder / name) for name in made)}")


def _curves(results: dict[str, list[dict]]) -> dict[str, report.Curve]:
    """Learning curves; with several seeds the mean, and the range over seeds as a band."""
    curves = {}
    for method, seeds in results.items():
        tables = [read_csv(seed["folder"] / "metrics.csv") for seed in seeds]
        real, sim = (np.stack([table[f"{side}_return"] for table in tables]) for side in ("real", "sim"))
        band = (real.min(0), real.max(0)) if len(seeds) > 1 else None
        curves[method] = report.Curve(tables[0]["step"], real.mean(0), sim.mean(0), band)
    return curves


def _episodes(experiment: Experiment, worlds: Worlds, results: dict[str, list[dict]]) -> dict[str, dict]:
    """The first test episode of each method, and the log's median episode."""
    seen = {}
    for method, seeds in results.items():
        with np.load(seeds[0]["folder"] / "test_episode.npz", allow_pickle=False) as file:
            seen[method] = (file["obs"], seeds[0]["first_fell"])
    if worlds.behaviour_return is not None:
        seen["logged behaviour"] = _median_episode(worlds.log)
    return {
        name: {"t": np.arange(len(obs)) * worlds.spec.dt, "terminated": fell}
        | {column: factor * obs[:, i] for i, column, _, factor in experiment.columns}
        for name, (obs, fell) in seen.items()
    }


def _median_episode(log) -> tuple[np.ndarray, bool]:
    """The log's complete episode of median length: observations [T + 1, O], and whether it fell."""
    ends = np.flatnonzero(log.terminals | log.timeouts)
    starts = np.concatenate([[0], ends[:-1] + 1])
    pick = np.argsort(ends - starts)[len(ends) // 2]
    rows = slice(starts[pick], ends[pick] + 1)
    obs = np.concatenate([log.observations[rows], log.next_observations[ends[pick]][None]])
    return obs, bool(log.terminals[ends[pick]])


def _video(worlds: Worlds, policy: Path, path: Path) -> None:
    """One real episode of the kept policy at up to 50 frames a second."""
    import imageio.v2 as imageio

    every = max(1, round(1 / (50 * worlds.spec.dt)))
    frames: list[np.ndarray] = []
    steps = iter(range(worlds.spec.episode_length))

    def frame() -> None:
        if next(steps) % every == 0:
            frames.append(worlds.real.render())

    evaluate.real_episode(worlds.real, NumpyPolicy.load(policy), training.TEST_SEED, worlds.spec.episode_length, frame)
    imageio.mimwrite(path, frames, fps=1 / (every * worlds.spec.dt), macro_block_size=2)
