"""What an hour with the robot is worth: real return against seconds of robot time, on the wheel-legged robot.

    python experiments/robot_seconds.py [--seeds 3] [--runs runs/robot_seconds] [--out docs/results]

One network size and four updates for every live step: H2O with simulations, 2,000 logged rows and the live robot; SAC
on the plain mix of the same; H2O on the log alone; SAC on the robot alone; and the first, hurried: 17 updates for every
live step. Robot time counts the log's seconds, too. At every evaluation ten episodes of the kept policy are judged in
a second instance. What is done already is not done again. Writes robot_seconds.csv, .png and .txt.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments import methods, preflight, session, wheel_legged_live, wheel_legged_live_mix
from experiments.experiment import Experiment
from experiments.live import Live
from hybrid_jax import plots, trainer
from hybrid_jax.metrics import read_csv
from hybrid_jax.provenance import git_state
from hybrid_jax.statistics import bootstrap_ci

ROOT = Path(__file__).resolve().parent.parent
DT = 0.005  # [s]
EPISODES = 10  # per evaluation


def learners() -> dict[str, Experiment]:
    """The learners by name."""
    live = replace(wheel_legged_live.config(), episodes=EPISODES, test_episodes=EPISODES, columns=())
    alone = methods.chosen(live, "real_only").algorithm
    return {
        "H2O, live": live,
        "SAC on the mix, live": replace(live, algorithm=wheel_legged_live_mix.config().algorithm),
        "H2O, log alone": replace(live, live=Live()),
        "SAC, robot alone": replace(
            live,
            dataset=None,
            log_rows=None,
            algorithm=alone,
            rates=trainer.Rates(sims=1, unroll=1, updates=200, sim_capacity=1, pool=1),
            updates=80_000,
            evaluate_every=2_000,
        ),
        "H2O, live, hurried": replace(live, live=replace(live.live, steps=12)),
    }


def run(name: str, experiment: Experiment, seed: int, runs: Path) -> dict[str, np.ndarray]:
    """The learning curve of one run, which is made where it is not there: seconds, real_return, falls."""
    folder = runs / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    experiment = replace(experiment, name=name, seed=seed, runs=runs, tensorboard=False)
    if not (folder / "summary.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        code = session.run(experiment, preflight.prepare(experiment, None), [], folder, time.monotonic())
        if code:
            raise SystemExit(code)
    table = read_csv(folder / "metrics.csv")
    return {"seconds": DT * table["real_steps"], "return": table["real_return"], "falls": table["real_falls"]}


def fall_free(curve: dict[str, np.ndarray]) -> float:
    """[s] of robot time at the first evaluation of ten episodes without a fall; infinite where none was."""
    good = np.flatnonzero(curve["falls"] == 0)
    return float(curve["seconds"][good[0]]) if good.size else np.inf


def main() -> None:
    """Runs what is missing, then writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "robot_seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    asked = parser.parse_args()
    curves: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in learners()}
    for seed in range(asked.seeds):
        for name, experiment in learners().items():
            curves[name].append(run(name, experiment, seed, asked.runs))
    asked.out.mkdir(parents=True, exist_ok=True)
    _write_csv(asked.out / "robot_seconds.csv", curves)
    shown, longest = {}, max(seeds[0]["seconds"][-1] for seeds in curves.values())
    for name, seeds in curves.items():
        returns = np.stack([curve["return"] for curve in seeds])
        seconds = seeds[0]["seconds"]
        if seconds[0] == seconds[-1]:  # no robot beside it: what it ends with, for all robot time to come
            returns, seconds = np.repeat(returns[:, -1:], 2, axis=1), np.array([seconds[0], longest])
        band = returns.min(axis=0), returns.max(axis=0)
        shown[name] = plots.Curve(seconds, returns.mean(axis=0), None, band)
    title = f"wheel-legged robot: mean and range of {asked.seeds} seeds"
    plots.plot_curve(asked.out / "robot_seconds.png", shown, None, title, "seconds of robot time, the log's included")
    text = "\n".join(_table(curves))
    (asked.out / "robot_seconds.txt").write_text(text + "\n")
    print(text)


def _write_csv(path: Path, curves: dict) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("method", "seed", "robot_seconds", "real_return", "falls_of_10"))
        for name, seeds in curves.items():
            for seed, curve in enumerate(seeds):
                for values in zip(*(curve[key] for key in ("seconds", "return", "falls")), strict=True):
                    writer.writerow((name, seed, *(round(float(value), 2) for value in values)))


def _table(curves: dict) -> list[str]:
    lines = [
        "| learner | robot time [s] | last evaluation, mean (95 %) | falls, last | first ten without a fall [s] |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, seeds in curves.items():
        last = [float(curve["return"][-1]) for curve in seeds]
        low, high = bootstrap_ci(last)
        falls = sum(int(curve["falls"][-1]) for curve in seeds)
        firsts = ", ".join("never" if np.isinf(s) else f"{s:.2f}" for s in map(fall_free, seeds))
        lines.append(
            f"| {name} | {seeds[0]['seconds'][-1]:.0f} | {np.mean(last):,.0f} ({low:,.0f} to {high:,.0f}) |"
            f" {falls} of {EPISODES * len(seeds)} | {firsts} |"
        )
    return [*lines, "", f"commit {git_state(ROOT)['commit']}"]


if __name__ == "__main__":
    main()
