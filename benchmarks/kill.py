"""Learner and robot are killed again and again: is a real step ever lost or learned twice?

    python benchmarks/kill.py [--kills 200] [--seed 0]

A small learner takes a rehearsal robot's steps from the journal, adds up their bits, and saves itself now and then.
At random moments it, or the robot's process, gets SIGKILL; the same command then goes on. This process is the oracle:
it keeps every number that was acknowledged and compares it, at the end, with the journal and with the learner's sums.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from envs import point_mass
from hybrid_jax.checkpoint import Checkpointer
from hybrid_jax.feed import Feed, Synchronous
from hybrid_jax.real import segments
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.record import SKIPPED, Flag, Transition
from hybrid_jax.real.settings import Deadlines, Settings
from hybrid_jax.real.supervisor import Supervisor

ROOT = Path(__file__).resolve().parent.parent
CHUNK, SAVE_EVERY = 4, 5  # rows an iteration, iterations between checkpoints
FOR_EVER = 10**9
BLANK = {"rows": np.zeros(1, np.int32), "bits": np.zeros(7, np.uint32)}


def learn(folder: Path, iterations: int) -> None:
    """The learner: says `worker PID` once and `taken N` after every iteration; N records are in its state."""
    settings = Settings(
        "envs.rehearsal:make", 40, options={"base": "envs.point_mass:make_real"}, deadlines=Deadlines(step=5.0),
        retry_wait=0.01, retries=1000,
    )  # fmt: skip
    state, done, watermark = dict(BLANK), 0, 0
    with Checkpointer(folder / "checkpoints") as checkpoints:
        if checkpoints.latest() is not None:
            state, meta, done = checkpoints.restore(state)
            watermark = meta["watermark"]
            for sentence in checkpoints.skipped:
                print(f"unreadable {sentence}", flush=True)
        with Supervisor(settings, folder / "robot") as robot:
            feed = Feed(Follower(robot.journal, robot.schema, watermark), point_mass.SPEC, CHUNK)
            source = Synchronous(robot, feed, policy_every=FOR_EVER)
            robot.set_policy = lambda params, version: None  # random actions will do
            print(f"worker {robot._process.pid}", flush=True)
            while done < iterations:
                chunk = source.next(dict, done)
                columns = [leaf[: chunk.count].reshape(chunk.count, -1) for leaf in chunk.rows[:-1]]  # no extras
                state = _learned(state, np.concatenate(columns, axis=1))
                done += 1
                if done % SAVE_EVERY == 0 or done == iterations:
                    checkpoints.save(done, state, {"watermark": feed.watermark})
                print(f"taken {feed.watermark} {robot._process.pid}", flush=True)


def _learned(state: dict, rows: np.ndarray) -> dict:
    """The state after rows [R, 7] float32: their number, and the sum of their bits, which no order changes."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    return {
        "rows": np.array(state["rows"]) + np.int32(len(rows)),
        "bits": np.array(state["bits"]) + bits.sum(axis=0, dtype=np.uint32),
    }


class Oracle:
    """Starts learners, kills them and their robots, and keeps what they said."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.acknowledged = self.unreadable = 0
        self.workers: set[int] = set()  # robot processes that were seen at work

    def life(self, kills: int, iterations: int) -> int:
        """One learner, until it is killed or done; kills it or its robot at random moments. Returns the kills."""
        command = [
            sys.executable,
            "-m",
            "benchmarks.kill",
            "--learn",
            str(self.folder),
            "--iterations",
            str(iterations),
        ]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        done = 0
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as child:
            due = float("inf")
            for line in child.stdout:
                kind, *words = line.split()
                self.unreadable += kind == "unreadable"
                if kind == "worker":
                    due = time.monotonic() + self.rng.uniform(0.0, 0.4)
                elif kind == "taken":
                    self.workers.add(int(words[-1]))
                    self.acknowledged = max(self.acknowledged, int(words[0]))
                if done < kills and time.monotonic() > due:
                    learner = done + 1 == kills or self.rng.random() < 0.5
                    victim = child.pid if learner else int(words[-1])
                    with contextlib.suppress(ProcessLookupError):  # the robot is being started anew
                        os.kill(victim, signal.SIGKILL)
                        done += 1
                    due = time.monotonic() + self.rng.uniform(0.0, 0.4)
        if child.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the learner ended by itself with code {child.returncode}")
        return done


def kill(kills: int, seed: int, folder: Path) -> dict[str, int]:
    """Kills `kills` times, lets the last learner end, and compares."""
    oracle, done = Oracle(folder, seed), 0
    while done < kills:
        done += oracle.life(kills - done, FOR_EVER)
    oracle.life(0, _saved(folder) + 10)
    figures = {"kills": done, "resumed": len(oracle.workers) - 1, "unreadable": oracle.unreadable}
    return figures | _compare(folder, oracle.acknowledged)


def _saved(folder: Path) -> int:
    with Checkpointer(folder / "checkpoints") as checkpoints:
        return checkpoints.latest() or 0


def _compare(folder: Path, acknowledged: int) -> dict[str, int]:
    """Lost and doubled steps: in the journal against the oracle, in the learner's sums against the journal."""
    found = list(segments.read(folder / "robot" / "journal"))
    holes = sum(record.sequence != n for n, record in enumerate(found))
    with Checkpointer(folder / "checkpoints") as checkpoints:
        state, meta, _ = checkpoints.restore(BLANK)
    steps = [r for r in found[: meta["watermark"]] if isinstance(r, Transition) and not r.flags & SKIPPED]
    rows = [
        np.concatenate([r.obs, r.sent, [r.reward, 0.0 if r.flags & Flag.TERMINATED else 1.0], r.next_obs])
        for r in steps
    ]
    wanted = _learned(BLANK, np.array(rows))
    learned, wrong = int(state["rows"][0]), int(not np.array_equal(state["bits"], wanted["bits"]))
    lost = max(0, acknowledged - len(found)) + max(0, len(steps) - learned) + holes
    return {"steps": len(steps), "lost": lost, "doubled": max(0, learned - len(steps)), "altered": wrong}


def main() -> None:
    """Prints the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learn", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--iterations", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.learn is not None:
        learn(asked.learn, asked.iterations)
        return
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = kill(asked.kills, asked.seed, Path(folder))
    for name, value in figures.items():
        print(f"{name:<12}{value:>8,}")
    print(json.dumps(figures | {"seconds": round(time.monotonic() - begun, 1)}))


if __name__ == "__main__":
    main()
