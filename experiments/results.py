"""What a run has to show at its end: summary, curves, episodes, video and the table of rivals."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments.experiment import Experiment
from experiments.judging import TEST_SEED
from experiments.worlds import Worlds
from hybrid_jax import evaluate, plots, report, statistics
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.metrics import read_csv

KEPT = (
    "the policy after the last update of the budget, its weights averaged over the last updates where"
    " policy_average is set; no evaluation chooses it"
)


def show(console: Console, experiment: Experiment, worlds: Worlds, folder: Path, results: dict, seconds: float) -> None:
    judged = {method: _judged(seeds) for method, seeds in results.items()}
    (main, ours), *rivals = judged.items()
    first = results[main][0]
    summary = ours | {
        "behaviour_return": worlds.behaviour_return,
        "updates": first["updates"],
        "real_steps": first["real_steps"],
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
    plots.plot_curve(folder / "curve.png", _curves(results), worlds.behaviour_return, title)
    if experiment.columns:
        columns = [(name, unit) for _, name, unit, _ in experiment.columns]
        plots.plot_episodes(
            folder / "episodes.png",
            _episodes(experiment, worlds, results),
            columns,
            f"{title}: the worst of {experiment.test_episodes} test episodes",
        )
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
            each.get("real_successes"),
        )
        for name, each in judged.items()
    ]
    if worlds.behaviour_return is not None:
        rows.append(report.Row("logged behaviour", worlds.behaviour_return))
    console.print(report.summary_table(rows))
    if experiment.seeds > 1:
        for name, each in judged.items():
            console.print(f"{name}: {each['real_return_mean']:,.0f} +- {each['real_return_std']:,.0f} over seeds")
    lost = sum(_diverged(result["folder"]) for seeds in results.values() for result in seeds)
    if lost:
        console.print(f"{lost:,.0f} simulated steps diverged and were left out: look at the simulator's time step")
    made = [name for name in ("curve.png", "episodes.png", "video.mp4") if (folder / name).exists()]
    console.print(f"{seconds:.0f} s; look at {', '.join(str(folder / name) for name in made)}")


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
    } | ({"real_successes": sum(result["successes"] for result in results)} if "successes" in results[0] else {})


def _diverged(folder: Path) -> float:
    """Simulated steps that a run masked out."""
    table = read_csv(folder / "metrics.csv")
    return float(sum(np.nansum(values) for name, values in table.items() if name.endswith("/diverged")))


def _curves(results: dict[str, list[dict]]) -> dict[str, plots.Curve]:
    """Learning curves; with several seeds the mean, and the range over seeds as a band."""
    curves = {}
    for method, seeds in results.items():
        tables = [read_csv(seed["folder"] / "metrics.csv") for seed in seeds]
        real, sim = (np.stack([table[f"{side}_return"] for table in tables]) for side in ("real", "sim"))
        band = (real.min(0), real.max(0)) if len(seeds) > 1 else None
        curves[method] = plots.Curve(tables[0]["step"], real.mean(0), sim.mean(0), band)
    return curves


def _episodes(experiment: Experiment, worlds: Worlds, results: dict[str, list[dict]]) -> dict[str, dict]:
    """The test episode of each method that earned least, and the log's median episode."""
    seen = {}
    for method, seeds in results.items():
        with np.load(seeds[0]["folder"] / "worst_episode.npz", allow_pickle=False) as file:
            seen[method] = (file["obs"], seeds[0]["worst_fell"])
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

    evaluate.real_episode(worlds.real, NumpyPolicy.load(policy), TEST_SEED, worlds.spec.episode_length, frame)
    imageio.mimwrite(path, frames, fps=1 / (every * worlds.spec.dt), macro_block_size=2)
