"""Thousands of real steps of which one in a hundred goes wrong: does the learner notice anything but the count?

    python benchmarks/soak.py [--steps 20000] [--share 0.01] [--seed 0]

A point mass does what a random script says: every kind of fault, at random steps. Where a fault stops the robot a
person is played, who starts it again. The rows go through the feed into a store. Printed last, as JSON: `faults`, by
the script; `miscounted`, kinds whose counter differs from the script; `not_finite`, numbers in the store; `wrong`, rows
that are no true step of the point mass; `joined`, rows that follow another episode's; `lost` and `doubled` rows;
`crashes` of this process's own parts.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np

from envs import point_mass
from hybrid_jax.buffers import multi_buffer
from hybrid_jax.feed import Feed
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.record import SKIPPED, Flag, Transition
from hybrid_jax.real.segments import read
from hybrid_jax.real.settings import Deadlines, RobotStopped, Settings
from hybrid_jax.real.supervisor import Supervisor
from hybrid_jax.trainer import example_row
from hybrid_jax.types import REAL

CHUNK = 50
KINDS = {  # kind of the script -> (its value, what the supervisor counts it as; None: a flag of the row)
    "raise": ("motor", "error"),
    "hang": (None, "hang"),
    "hang_hard": (None, "hang"),
    "die": ("SIGKILL", "death"),
    "nan": (1, "bad answer"),
    "reward": ("inf", "bad answer"),
    "late": (0.01, None),
    "shape": (3, "bad answer"),
    "dtype": ("int64", "bad answer"),
    "keys": (1, "bad answer"),
    "estop": ("button", "emergency stop"),
    "intervene": ([0.25], None),
    "abort": (True, None),
    "freeze": (4, None),
    "clock": (-60.0, None),
}


def script(steps: int, share: float, seed: int) -> list[tuple[int, str, object]]:
    """Faults at random steps, at least ten apart, every kind equally likely."""
    rng = np.random.default_rng(seed)
    slots = rng.choice(steps // 10, int(steps * share), replace=False)
    kinds = rng.choice(list(KINDS), len(slots))
    return [(10 * int(slot) + 5, str(kind), KINDS[kind][0]) for slot, kind in zip(np.sort(slots), kinds, strict=True)]


def soak(steps: int, share: float, seed: int, folder: Path) -> dict[str, float]:
    """Drives the robot through the script; what came of it."""
    faults = script(steps, share, seed)
    options = {"base": "envs.point_mass:make_real", "faults": faults, "memory": str(folder / "memory")}
    settings = Settings(
        "envs.rehearsal:make", 100, 0.0, options, seed, frozen_after=1, deadlines=Deadlines(step=0.3), retry_wait=0.01
    )
    store = multi_buffer((steps + CHUNK,))
    add, state = jax.jit(store.add, static_argnums=1, donate_argnums=0), store.init(example_row(point_mass.SPEC))
    counted: Counter[str] = Counter()
    done = taken = 0
    memory = folder / "memory" / "steps"
    while not memory.exists() or memory.stat().st_size < steps:
        try:
            with Supervisor(settings, folder / "robot") as robot:
                feed = Feed(Follower(robot.journal, robot.schema, taken), point_mass.SPEC, CHUNK)
                try:
                    while memory.stat().st_size < steps if memory.exists() else True:
                        robot.collect(CHUNK)
                        state, done = _drain(feed, robot.watermark, add, state, done)
                finally:
                    state, done = _drain(feed, robot.watermark, add, state, done)
                    taken = feed.watermark
                    counted += robot.faults
        except RobotStopped:
            continue
    return _judge(faults, counted, folder, jax.device_get(state), done)


def _drain(feed: Feed, watermark: int, add, state, done: int):
    while feed.watermark < watermark:
        chunk = feed.take(watermark)
        state, done = add(state, REAL, chunk.rows, chunk.count), done + int(chunk.count)
    return state, done


def _judge(faults: list, counted: Counter, folder: Path, state, done: int) -> dict[str, float]:
    """The store and the counters against the journal, the script and the point mass's own equations."""
    wanted = Counter(KINDS[kind][1] for _, kind, _ in faults if KINDS[kind][1])
    steps = [record for record in read(folder / "robot" / "journal") if isinstance(record, Transition)]
    kept = [step for step in steps if not step.flags & SKIPPED]
    rows = jax.tree.map(lambda leaf: leaf[: int(state.size[REAL])], state.data)
    same = min(len(kept), done)
    equal = np.array_equal(rows.obs[:same], np.array([step.obs for step in kept[:same]], np.float32))
    joined = sum(
        b.step != a.step + 1 or bool(a.flags & (Flag.TERMINATED | Flag.TRUNCATED)) or np.any(a.next_obs != b.obs)
        for a, b in itertools.pairwise(steps)
        if a.episode == b.episode
    )
    flags = {Flag.INTERVENED: "intervene"}
    for flag, kind in flags.items():
        counted[kind] = sum(bool(step.flags & flag) for step in steps)
        wanted[kind] = sum(name == kind for _, name, _ in faults)
    return {
        "steps": len(steps),
        "faults": len(faults),
        "miscounted": sum(counted[kind] != wanted[kind] for kind in counted | wanted),
        "not_finite": sum(int(np.sum(~np.isfinite(leaf))) for leaf in jax.tree.leaves(rows)),
        "wrong": _wrong(kept),
        "joined": int(joined),
        "lost": max(0, len(kept) - done) + int(not equal),
        "doubled": max(0, done - len(kept)),
    } | {f"seen_{kind.replace(' ', '_')}": count for kind, count in sorted(counted.items())}


def _wrong(steps: list[Transition]) -> int:
    """Rows that are not what the point mass does."""
    constants = point_mass.make_real().constants
    wrong = 0
    for step in steps:
        x, v, reward, _ = point_mass.dynamics(constants, step.obs.astype(float), step.sent.astype(float))
        wrong += not (np.allclose(step.next_obs, [x, v], atol=1e-5) and abs(step.reward - reward) < 1e-3)
    return wrong


def main() -> None:
    """Prints the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(asked.steps, asked.share, asked.seed, Path(folder))
    for name, value in figures.items():
        print(f"{name:<24}{value:>8,}")
    print(json.dumps(figures | {"seconds": round(time.monotonic() - begun, 1)}))


if __name__ == "__main__":
    main()
