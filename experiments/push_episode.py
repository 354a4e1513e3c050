"""Planar push as pictures: the scripted pusher at full speed on the simulator's table and on the real one.

MUJOCO_GL=egl python experiments/push_episode.py [--out docs/results/push_episode.png]
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.layout_engine import ConstrainedLayoutEngine

from envs import push, push_scripted

HASTY = push_scripted.Pusher(slow=1.0, per_metre=0.0, arrived=push.THRESHOLD)
ROWS = {
    "Simulator: at full speed, let go at the goal": (push.SIMULATED, HASTY),
    "Reality: the same pusher; the puck slides past, there and back": (push.REAL, HASTY),
    "Reality: slower towards the goal": (push.REAL, push_scripted.Pusher()),
}


def film(domain: push.Domain, pusher: push_scripted.Pusher, seed: int, steps: list[int]):
    """A list of (picture [H, W, 3], the puck's distance to the goal [m]) after each of these steps of one episode."""
    env = push.make_real(domain=domain, render_mode="rgb_array")
    obs, _ = env.reset(seed=seed)
    frames = []
    for step in range(push.SPEC.episode_length + 1):
        if step in steps:
            frames.append((env.render(), float(np.linalg.norm(obs[push.GOAL.achieved] - obs[push.GOAL.desired]))))
        obs, *_ = env.step(push_scripted.act(obs, pusher))
    env.close()
    return frames


def main(out: Path = Path("docs/results/push_episode.png"), seed: int = 30) -> None:
    """Writes the film strip: a row for each table and pusher, six moments of the same episode from left to right."""
    steps = [0, 8, 13, 17, 21, 50]
    figure, axes = plt.subplots(len(ROWS), len(steps), figsize=(15, 7.2), layout=ConstrainedLayoutEngine(h_pad=0.18))
    for row, (title, (domain, pusher)) in zip(axes, ROWS.items(), strict=True):
        row[0].text(
            0, 1.04, title, transform=row[0].transAxes, fontsize=12, in_layout=False
        )  # else it widens its column
        for axis, step, (picture, distance) in zip(row, steps, film(domain, pusher, seed, steps), strict=True):
            axis.imshow(picture)
            there = distance <= push.THRESHOLD
            label = f"{step * push.SPEC.dt:.2f} s: {100 * distance:.1f} cm to go"
            axis.set_xlabel(label, color="tab:green" if there else "0.25", weight="bold" if there else "normal")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    figure.savefig(out, dpi=100)
    print(f"wrote {out}")


if __name__ == "__main__":
    tyro.cli(main)
