"""Does it save real episodes to learn from reality more often than to visit it? The planar push by q, beta, strategy.

    python experiments/push_study.py --workers 2 --minutes 60       what is open, a process a core; again: goes on
    python experiments/push_study.py --only strategy=mixed,q=0.1    those cells alone; several values: q=0.1,q=0.3
    python experiments/push_study.py --report                       writes the report of what is done

A finished run adds its curve to OUT/push_mixing.csv; the report is OUT/push_mixing.md. Success is the share of 100
greedy episodes in MuJoCo C with reality's constants that end at the goal; these are no real episodes of the run.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from hybrid_jax.config import ConfigError

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 1 a process failed, 2 the user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="processes, each on one core")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--only", default="", metavar="AXIS=VALUE,...", help="runs of these values alone")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of table and report")
    parser.add_argument("--report", action="store_true", help="write the report and stop")
    asked = parser.parse_args(arguments)
    os.environ |= ONE_THREAD  # before jax is imported, which fixes the sizes of thread pools
    from experiments import push_report, push_runs, study_grid

    table = push_runs.table(asked.out / "push_mixing.csv")
    try:
        if min(asked.seeds, asked.workers) < 1:
            raise ConfigError(f"--seeds {asked.seeds} and --workers {asked.workers}: give at least 1 of both")
        grid = push_runs.grid(asked.seeds)
        cells = study_grid.chosen(grid, asked.only)
        failed = False
        if not asked.report:
            points = table.read()
            done = push_runs.finished(points)
            left = [cell for cell in cells if cell not in done]
            print(f"{len(cells) - len(left)} of {len(cells)} runs are done", flush=True)
            if others := push_runs.other_settings(points):
                print(f"{others} evaluations in {table.path} are of other settings and do not count")
            failed = _start(left, asked.workers, table.path, time.time() + 60 * asked.minutes)
        print(push_report.write(push_runs.finished(table.read()), grid, asked.out))
    except ConfigError as error:
        print(f"push_study.py: {error}", file=sys.stderr)
        return 2
    for sentence in table.told:
        print(sentence)
    return int(failed)


def _start(left: list, workers: int, path: Path, until: float) -> bool:
    """Makes the open runs; whether a process failed. SIGTERM takes the processes along."""
    context, before = multiprocessing.get_context("spawn"), signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with context.Manager() as manager:
            lock, open_cells = manager.Lock(), manager.list(left)
            own = [
                context.Process(daemon=True, target=_work, args=(core, open_cells, lock, path, until))
                for core in range(workers)
            ]
            for process in own:
                process.start()
            for process in own:
                process.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    codes = [process.exitcode for process in own if process.exitcode]
    for code in codes:
        print(f"a process ended with {code}; its run is open, the others are not touched", flush=True)
    return bool(codes)


def _work(core: int, cells, lock, path: Path, until: float) -> None:
    """One process: the next open cell, until none is left or the time is over."""
    if hasattr(os, "sched_setaffinity"):
        own = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {own[core % len(own)]})
    from experiments import preflight, push_runs

    preflight.use_compile_cache()
    made, table = push_runs.program(), push_runs.table(path)
    while time.time() < until:
        with lock:
            if not cells:
                return
            cell = cells.pop(0)
        points = list(push_runs.run(made, cell))
        table.append(*points)
        last = points[-1]
        print(
            f"q {cell.q:g} beta {cell.beta:g} {cell.strategy} seed {cell.seed}: success {last.real_success:.2f} in"
            f" reality, {last.sim_success:.2f} in simulation, {last.real_episodes} real episodes, {last.seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
