"""A run with a robot is told to stop at random moments: how soon does the robot hold, and is everything saved?

    python benchmarks/stop.py [--stops 50] [--seed 0]

Each time a whole run of a point mass, with the robot at 100 Hz beside it, gets SIGINT or SIGTERM. The rehearsal robot
writes down when it was sent what. Printed last, as JSON: `stops`; `moving`, those in which the robot was under way;
`slowest_ms`, from the signal to the safe action; `unsafe`, stops after which the robot's last command was not the safe
action or anything else was sent 100 ms after the signal; `wrong_codes`, exit codes other than 130 and 143;
`incomplete`, stops without a verified checkpoint; `slowest_end_s`, from the signal to the end of the program.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from envs import rehearsal
from hybrid_jax import manifest

ROOT = Path(__file__).resolve().parent.parent
SOON = 0.1  # [s] from a signal to the safe action
EARLIEST, LATEST = 0.0, 4.0  # [s] of a signal after the first step of the robot, or after the start
MEMORY = "REHEARSAL_MEMORY"  # the environment's variable with the folder of the robot's memory
EXPERIMENT = """
from pathlib import Path

from experiments.experiment import Experiment
from experiments.live import Live
from hybrid_jax import trainer
from hybrid_jax.algorithms import sac


def config():
    return Experiment(
        name="stop", sim="envs.point_mass:make", real="benchmarks.stop:robot", dataset=None,
        algorithm=sac.Config(hidden=(32,), batch_real=32, batch_sim=32),
        rates=trainer.Rates(sims=16, unroll=4, updates=50, sim_capacity=4_000, pool=8),
        live=Live(feed="threaded", rate=100.0, steps=20), updates=50 * 10**6, evaluate_every=50 * 10**4,
        episodes=1, test_episodes=1, rivals=(), runs=Path(__file__).with_name("runs"), tensorboard=False,
    )
"""


def robot() -> rehearsal.Rehearsal:
    """The point mass, with a memory."""
    return rehearsal.make(base="envs.point_mass:make_real", memory=os.environ[MEMORY])


def stop_once(folder: Path, number: signal.Signals, wait: float, from_start: bool) -> dict[str, float]:
    """One run that is told to stop `wait` seconds after its robot moved, or after its start; what came of it."""
    memory = folder / "memory"
    home = folder / "home"
    home.mkdir(parents=True)
    (home / "mine.py").write_text(EXPERIMENT)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), MEMORY: str(memory)}
    environment |= {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), str(home / "mine.py")]
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            while not from_start and not (memory / "commands").exists() and child.poll() is None:
                time.sleep(0.01)
            time.sleep(wait)
            told = time.monotonic()
            child.send_signal(number)
            code = child.wait(60)
        finally:
            child.kill()
            child.wait()
    ended = time.monotonic() - told
    outcome = {"wrong_codes": int(code not in (128 + number, -number)), "end_s": ended, "moving": 0, "unsafe": 0}
    if not (memory / "commands").exists():
        return outcome
    sent = rehearsal.commands(memory, 1)
    after = sent[sent[:, 0] > told]
    safe = after[after[:, 1] == 0.0]
    outcome["moving"] = 1
    held = sent[-1, 1] == 0.0 and sent[-1, 0] <= told  # already, by another fault
    outcome["hold_ms"] = 0.0 if held else 1e3 * (safe[0, 0] - told) if len(safe) else np.inf
    outcome["unsafe"] = int(sent[-1, 1] != 0.0 or bool(np.any(after[after[:, 0] > told + SOON, 1] != 0.0)))
    learned = "sac: 0/" in (folder / "log").read_text()  # before the first update there is nothing to save
    outcome["incomplete"] = int(learned and not any(_saved(run) for run in (home / "runs").iterdir()))
    return outcome


def _saved(run: Path) -> bool:
    """Whether the newest checkpoint is there and verifies."""
    steps = [int(path.name) for path in (run / "checkpoints").glob("*/") if path.name.isdecimal()]
    if not steps:
        return False
    manifest.read(run / "checkpoints" / str(max(steps)), max(steps))  # raises where it is damaged
    return True


def stop(stops: int, seed: int, folder: Path) -> dict[str, float]:
    """So many runs, one after the other, each stopped once; a fifth of them while they start."""
    rng = np.random.default_rng(seed)
    outcomes = []
    for n in range(stops):
        number = signal.SIGINT if rng.random() < 0.5 else signal.SIGTERM
        (folder / str(n)).mkdir()
        outcomes.append(stop_once(folder / str(n), number, rng.uniform(EARLIEST, LATEST), n % 5 == 4))
        print(
            f"{number.name:<8}" + "  ".join(f"{name} {value:.4g}" for name, value in outcomes[-1].items()), flush=True
        )
    figures = {"stops": stops} | {
        name: sum(outcome.get(name, 0) for outcome in outcomes)
        for name in ("moving", "unsafe", "wrong_codes", "incomplete")
    }
    slowest = {"slowest_ms": max(outcome.get("hold_ms", 0.0) for outcome in outcomes)}
    return figures | slowest | {"slowest_end_s": max(outcome["end_s"] for outcome in outcomes)}


def main() -> None:
    """Prints one line for each stop; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = stop(asked.stops, asked.seed, Path(folder))
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
