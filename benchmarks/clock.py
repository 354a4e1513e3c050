"""Does the robot keep its rate beside a busy learner?

    python benchmarks/clock.py [--seconds 60] [--rates 50 200]

A rehearsal robot (the real wheel-legged robot) steps at a fixed rate in its own process while H2O with 500 simulations
learns as fast as it can on all cores. The times are those that the robot itself wrote down, apart from our clock:
`late`, share of steps that are flagged; `unflagged`, commands that came more than two periods after the one before,
where neither step has a flag; `jitter`, |time between two commands - period|; `policy`, from observation to command.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.timing import report
from envs import rehearsal, wheel_legged
from experiments import wheel_legged_h2o
from hybrid_jax import trainer
from hybrid_jax.algorithms import h2o
from hybrid_jax.datasets import hdf5
from hybrid_jax.feed import Before, Caps, Feed, Threaded
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.record import Flag, Transition
from hybrid_jax.real.segments import read
from hybrid_jax.real.settings import Settings
from hybrid_jax.real.supervisor import Supervisor
from hybrid_jax.scaling import Moments

STEPS = 200  # rows of a chunk at most


def learner():
    """The default experiment's trainer and its first state, compiled."""
    config, spec = wheel_legged_h2o.config(), wheel_legged.SPEC
    rows = hdf5.transitions(hdf5.load(config.dataset, spec))
    algorithm = h2o.make(config.algorithm, spec, Moments.of(rows.obs, rows.next_obs))
    made = trainer.jitted(
        trainer.make(spec, (wheel_legged.make(),), algorithm, config.rates, len(rows.reward) + 100_000)
    )
    state = made.init(jax.random.key(0), rows)
    empty = jax.tree.map(lambda leaf: np.zeros((STEPS, *leaf.shape[1:]), np.float32), rows)
    state, metrics = made.step(state, empty, np.int32(0))
    jax.block_until_ready(metrics)
    return made, algorithm, state, len(rows.reward)


def beside(rate: float, seconds: float, folder: Path, made, algorithm, state, logged: int):
    """`seconds` of a robot at `rate` beside the learner -> (state, figures)."""
    memory = folder / "memory"
    options = {"base": "envs.wheel_legged:make_real", "memory": str(memory)}
    settings = Settings("envs.rehearsal:make", wheel_legged.SPEC.episode_length, rate, options)
    with Supervisor(settings, folder / "robot", print) as robot:
        feed = Feed(Follower(robot.journal, robot.schema), wheel_legged.SPEC, STEPS)
        source = Threaded(robot, feed, 1, Caps(0), Before(rows=logged))
        robot.set_policy(jax.device_get(algorithm.policy(state.algorithm)), 0)
        robot.first()
        robot.run()
        begun, updates, acted = time.monotonic(), 0, []
        while time.monotonic() - begun < seconds:
            policy = algorithm.policy(state.algorithm)
            chunk = source.next(lambda policy=policy: jax.device_get(policy), updates)
            state, metrics = made.step(state, chunk.rows, chunk.count)
            jax.block_until_ready(metrics)
            updates += made.updates
            acted = list(robot.status.acted)
        faults = sum(robot.faults.values())
    rows = [record for record in read(folder / "robot" / "journal") if isinstance(record, Transition)]
    figures = _judge(rows, rehearsal.commands(memory, 1)[:, 0], 1 / rate)
    spent = {"policy_p99_ms": 1e3 * float(np.percentile(acted, 99)), "updates_per_s": updates / seconds}
    return state, figures | spent | {"faults": faults}


def _judge(rows: list[Transition], told: np.ndarray, period: float) -> dict[str, float]:
    """What the robot's own times say of the steps in the journal."""
    late = np.array([bool(row.flags & Flag.LATE) for row in rows])
    own = told[np.searchsorted(told, [row.monotonic for row in rows])]  # when the robot got each row's command
    same = np.array([a.episode == b.episode for a, b in itertools.pairwise(rows)])
    gaps = np.diff(own)
    behind = same & (gaps > 2 * period)
    jitter = np.abs(gaps[same] - period)
    return {
        "steps": len(rows),
        "late": float(np.mean(late)),
        "unflagged": int(np.sum(behind & ~late[1:] & ~late[:-1])),
        "jitter_p50_ms": 1e3 * float(np.median(jitter)),
        "jitter_p99_ms": 1e3 * float(np.percentile(jitter, 99)),
    }


def main() -> None:
    """Prints the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[50.0, 200.0])
    asked = parser.parse_args()
    made, algorithm, state, logged = learner()
    shown, figures = [], {}
    for rate in asked.rates:
        with tempfile.TemporaryDirectory() as folder:
            state, found = beside(rate, asked.seconds, Path(folder), made, algorithm, state, logged)
        shown += [(f"{rate:g} Hz, {name}", f"{value:10.4g}") for name, value in found.items()]
        figures |= {f"{name}_{rate:g}": value for name, value in found.items()}
    report(shown, figures)


if __name__ == "__main__":
    main()
