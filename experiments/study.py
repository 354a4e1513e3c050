"""Runs a study, a grid of trainings, on several processes, and writes its report.

python experiments/study.py wheel_legged --workers 2               what is open, on two processes; again: goes on
python experiments/study.py wheel_legged --minutes 60              starts no cell after an hour
python experiments/study.py wheel_legged --only method=h2o,share=1 those cells alone; several values: share=1,share=0.1
python experiments/study.py wheel_legged --list                    what is done and open, and for how long
python experiments/study.py wheel_legged --report                  writes the report of what is done

The table OUT/NAME.csv gets a line for every finished cell; the report is OUT/NAME.md. Text outside of the report's two
marks stays.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from experiments.stopping import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the imports below take seconds

from dataclasses import replace

from experiments import study_grid, study_progress, study_report
from experiments.csv_table import Table
from experiments.experiment import Refused
from experiments.study_grid import Cell, Study
from experiments.study_table import Row
from hybrid_jax.config import ConfigError

ROOT = Path(__file__).resolve().parent.parent
# One thread a process: two small programs side by side outrun one on two threads.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
NOT_ALL = 3  # a process's exit code: some of its cells could not be run
EIGEN = "--xla_cpu_multi_thread_eigen=false"


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 1 some cells could not be run, 2 the user's mistake, 130 or 143 stopped by a signal."""
    try:
        asked = _parser().parse_args(arguments)
        study, cells = _wanted(asked)
        table = Table(asked.out / f"{study.name}.csv", Row)
        if asked.worker is not None:
            return _work(asked, study, cells, table)
        rows = table.read()
        for sentence in table.told:
            print(sentence)
        shown = study_progress.lines(study, cells, rows, asked.workers)
        if asked.list:
            print("\n".join(shown))
            return 0
        code = 0
        if not asked.report:
            print(shown[-1], flush=True)
            code = _start(asked, arguments) if study_progress.missing(study, cells, rows) else 0
        if code <= 1:
            command = shlex.join(["python", "experiments/study.py", asked.name])
            print(study_report.write(study, table.read(), asked.out, command, asked.runs / f"study-{study.name}"))
        return code
    except (ConfigError, Refused) as error:
        print(f"study.py: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="study.py",
        description=(__doc__ or "") + "\nstudies: " + ", ".join(study_grid.names()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="a study of experiments/studies, or path/to/mine.py")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on one core")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no cell after so many")
    parser.add_argument("--seeds", type=int, help="seeds 0 to N - 1 in place of the study's own number")
    parser.add_argument("--only", default="", metavar="AXIS=VALUE,...", help="cells of these values alone")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of table and report")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the runs")
    parser.add_argument("--list", action="store_true", help="print the cells and stop")
    parser.add_argument("--report", action="store_true", help="write the report and stop")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser


def _wanted(asked: argparse.Namespace) -> tuple[Study, list[Cell]]:
    for name, least in (("workers", 1), ("seeds", 1), ("minutes", 0)):
        value = getattr(asked, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value:g} must be at least {least}")
    study = study_grid.load(asked.name)
    if asked.seeds is not None:
        study = replace(study, seeds=asked.seeds)
    cells = study_grid.chosen(study_grid.grid(study), asked.only)
    if not (asked.list or asked.report):
        study_grid.check_logs(study, cells)
    return study, cells


def _start(asked: argparse.Namespace, arguments: list[str]) -> int:
    """Starts the processes and waits; a signal goes on to them, once."""
    until = time.time() + 60 * asked.minutes
    own = os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--until", str(until)]
    workers = [
        subprocess.Popen([*command, "--worker", str(i)], env=own, start_new_session=True) for i in range(asked.workers)
    ]
    got = 0

    def stop(number: int, frame: object) -> None:
        nonlocal got
        got = got or number
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for code in codes:
        if code not in (0, NOT_ALL, 128 + got):
            print(f"a process ended with {code}; its cell is open, the others are not touched", flush=True)
    if got:
        print("stopped; the same command goes on", flush=True)
        return 128 + got
    return int(any(codes))


def _work(asked: argparse.Namespace, study: Study, cells: list[Cell], table: Table[Row]) -> int:
    """One process; pinned before the first computation, which fixes the sizes of thread pools."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EIGEN}".strip()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if cores:
        os.sched_setaffinity(0, {cores[asked.worker % len(cores)]})
    import jax

    from experiments.stopping import Stop
    from experiments.study_worker import Worker

    if cores and jax.default_backend() != "cpu":
        os.sched_setaffinity(0, cores)
    with Stop() as stop:

        def leave() -> None:
            with table.writing:  # lines under way are finished; a cut cell goes on from its checkpoint
                os._exit(128 + (stop.wanted or 0))

        with stop.at_once(leave):
            worker = Worker(study, study_grid.programs(study, cells), table, asked.runs / f"study-{study.name}")
            worker.run(asked.until, stop)
    return NOT_ALL if worker.failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
