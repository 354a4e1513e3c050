"""How soon a hang or a death of the robot's process is dealt with, and what the simulations lose meanwhile.

    python benchmarks/robot.py [--trials 100]

`hang_ms`: from a hung step's deadline until its process is gone (the largest of all trials); `death_ms`: from a process
that kills itself until that is known; `orphans`: processes of the robot one second after a learner was killed;
`safe_ms`: from a learner's death to the safe action; `throughput`: simulated steps per second while the robot hangs and
is started again and again, over those while it works; `append_*_ms`: one record of 1 kB on the disk.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.timing import report
from envs import rehearsal, wheel_legged
from hybrid_jax import rollout
from hybrid_jax.real.journal import Journal
from hybrid_jax.real.record import Transition
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.settings import Deadlines, Settings
from hybrid_jax.real.supervisor import Supervisor

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 0.3  # [s] of a step
BETWEEN = 20  # steps between two faults
LEARNER = """
import sys, time
from pathlib import Path
from benchmarks.robot import settings
from hybrid_jax.real.supervisor import Supervisor

folder = Path(sys.argv[1])
with Supervisor(settings(folder, [], 100.0), folder / "robot") as robot:
    robot.run()
    while robot.rows < 5:
        time.sleep(0.01)
    print(robot._process.pid, flush=True)
    time.sleep(1000)
"""


def settings(folder: Path, faults: list, rate: float = 0.0, **changed) -> Settings:
    """A point mass with these faults and a memory."""
    options = {"base": "envs.point_mass:make_real", "faults": faults, "memory": str(folder / "memory")}
    defaults = {"deadlines": Deadlines(step=DEADLINE, reset=5.0), "retry_wait": 0.01, "retries": 3}
    return Settings("envs.rehearsal:make", 1000, rate, options, **defaults | changed)


def noticed(kind: str, value, trials: int, folder: Path) -> list[float]:
    """[ms] from each fault, by the robot's own clock, until the supervisor has dealt with it."""
    told: list[float] = []
    steps = [BETWEEN * (n + 1) for n in range(trials)]
    with Supervisor(
        settings(folder, [[step, kind, value] for step in steps]), folder / "robot",
        lambda text: told.append(time.monotonic()) if text.startswith(("hang", "death")) else None,
    ) as robot:  # fmt: skip
        while len(told) < trials:
            robot.collect(BETWEEN)
    begun = rehearsal.commands(folder / "memory", 1)[:, 0]
    return [1e3 * (end - begun[begun < end][-1]) for end in told]


def killed_learners(trials: int, folder: Path) -> tuple[float, int]:
    """[ms] to the safe action after the learner's death, the longest, and the processes left a second later."""
    slowest, orphans = 0.0, 0
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    for n in range(trials):
        home = folder / str(n)
        home.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", LEARNER, str(home)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as child:
            pid = int(child.stdout.readline())
            told = time.monotonic()
            child.send_signal(signal.SIGKILL)
        time.sleep(max(0.0, told + 1.0 - time.monotonic()))
        orphans += _runs(pid)
        last = rehearsal.commands(home / "memory", 1)[-1]
        slowest = max(slowest, np.inf if last[1] != 0.0 else 1e3 * (last[0] - told))
    return slowest, orphans


def _runs(pid: int) -> bool:
    """Whether a process is still at work; one that has ended may wait for whoever counts the dead."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def throughput(folder: Path, seconds: float = 10.0, rounds: int = 3) -> float:
    """Simulated steps per second beside a robot that is down, over those beside one that works at 50 Hz."""
    env = wheel_legged.make()
    step = jax.jit(
        lambda state, key: rollout.rollout(env, lambda obs, key: jax.random.normal(key, (500, 1)), state, key, 20)[0]
    )
    state = step(rollout.init(env, jax.random.key(0), 500, 64), jax.random.key(1))
    rates: dict[str, list[float]] = {"up": [], "down": []}
    hung = [[n, "hang", None] for n in range(5, 10_000)]
    for turn in range(rounds):
        for name, faults in (("up", []), ("down", hung)):
            home = folder / f"{name}{turn}"
            slow = {"deadlines": Deadlines(step=2.0), "retries": 1000, "retry_wait": 1.0}
            with Supervisor(settings(home, faults, 50.0, **slow), home / "robot") as robot:
                robot.run()
                time.sleep(1.0)
                begun, done = time.monotonic(), 0
                while time.monotonic() - begun < seconds:
                    state = jax.block_until_ready(step(state, jax.random.key(done)))
                    done += 1
                rates[name].append(done / (time.monotonic() - begun))
    return float(np.median([down / up for down, up in zip(rates["down"], rates["up"], strict=True)]))


def appends(folder: Path, records: int = 10_000) -> np.ndarray:
    """[ms] of each append of a record of 1 kB, with its way to the disk."""
    size = 125
    schema = Schema("benchmark", size, 2, (-1.0,) * 2, (1.0,) * 2, 0.0)
    numbers = np.ones(size, np.float32)
    taken = np.zeros(records)
    with Journal(folder, schema) as journal:
        for n in range(records):
            row = Transition(n, 0, n, numbers, numbers[:2], numbers[:2], 0.0, numbers)
            begun = time.perf_counter()
            journal.append(row)
            taken[n] = time.perf_counter() - begun
    return 1e3 * taken


def main() -> None:
    """Prints the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:  # on a real disk: a temporary folder may lie in memory
        home = Path(folder)
        hangs = [ms - 1e3 * DEADLINE for ms in noticed("hang", None, trials, home / "hang")]
        deaf = [ms - 1e3 * DEADLINE for ms in noticed("hang_hard", None, trials, home / "deaf")]
        deaths = noticed("die", "SIGKILL", trials, home / "death")
        safe, orphans = killed_learners(max(1, trials // 5), home)
        written = appends(home / "journal")
        share = throughput(home)
    figures = {
        "trials": trials,
        "hang_ms": max(hangs),
        "deaf_hang_ms": max(deaf),
        "death_ms": max(deaths),
        "orphans": orphans,
        "safe_ms": safe,
        "throughput": share,
        "append_p50_ms": float(np.median(written)),
        "append_p99_ms": float(np.percentile(written, 99)),
    }
    report([(name, f"{value:10.4g}") for name, value in figures.items()], figures)


if __name__ == "__main__":
    main()
