"""One process of a study: takes open cells, trains and tests each, adds its row to the table.

Seeds of one program run after each other in one process, so that it is compiled once; on an accelerator they run at
once where they learn from the same rows.
"""

import contextlib
import json
import math
import os
import platform
import shutil
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import preflight, session, study_folders, training
from experiments.csv_table import Table
from experiments.experiment import ROOT, Experiment, Refused
from experiments.stopping import Stop
from experiments.study_claims import held, lock
from experiments.study_grid import ANY, Cell, Study, experiment_of, folder_name, settings_of
from experiments.study_table import Row, finished
from experiments.worlds import Worlds
from hybrid_jax.config import ConfigError
from hybrid_jax.datasets.normalised import normalised
from hybrid_jax.guards import BadUpdates
from hybrid_jax.provenance import git_state
from hybrid_jax.types import Algorithm

PACKAGES = ("jax", "mujoco", "numpy")


class Ready(NamedTuple):
    """What seeds that learn from the same rows share."""

    shape: Experiment  # the run but for its seed
    worlds: Worlds
    algorithm: Algorithm
    compiled: training.Program


class Worker:
    """Works until no open cell is left or the time is over."""

    def __init__(self, study: Study, programs: list[list[Cell]], table: Table[Row], place: Path):
        self.study, self.programs, self.table, self.place = study, programs, table, place
        self.failed: list[str] = []  # cells that could not be run, a sentence each
        self._given_up: set[Cell] = set()
        self._here: list[Cell] = []  # the program in use
        self._ready: Ready | None = None
        self._origin = _origin()

    def run(self, until: float, stop: Stop) -> None:
        """until: by time.time()."""
        (self.place / "claims").mkdir(parents=True, exist_ok=True)
        parent = os.getppid()
        try:
            while time.time() < until and os.getppid() == parent:  # whoever started it is still there
                with contextlib.ExitStack() as claims:
                    cells = self._take(claims)
                    if not cells:
                        break
                    try:
                        self._run(cells, stop)
                    except (Refused, ConfigError, BadUpdates) as error:
                        self.failed.append(f"{told(cells[0])}: {error}")
                        print(f"not run: {self.failed[-1]}", flush=True)
                        self._given_up.update(cells)
        finally:
            self._close()

    def _take(self, claims: contextlib.ExitStack) -> list[Cell]:
        """Claims one open cell, or all open seeds of a program where they run at once; [] where none is left.

        Programs that nobody works at come first; then other processes are helped with their remaining seeds.
        """
        folder = self.place / "claims"
        claims_of = {cell: folder / folder_name(cell) for program in self.programs for cell in program}
        with lock(folder / "all"):  # one process looks at a time
            taken = {cell for cell, path in claims_of.items() if held(path)}
            done = finished(self.study, self.table.read()) | self._given_up  # read after the look: rows come first
            for helping in (False, True):
                for program in [self._here, *self.programs]:
                    cells = [cell for cell in program if cell not in done]
                    free = [cell for cell in cells if cell not in taken]
                    if free and (helping or program is self._here or len(free) == len(cells)):
                        chosen = free if _together(self.study, free[0]) else free[:1]
                        for cell in chosen:
                            claims.enter_context(lock(claims_of[cell]))
                        self._here = program
                        return chosen
        return []

    def _run(self, cells: list[Cell], stop: Stop) -> None:
        started = time.monotonic()
        folders = [self.place / folder_name(cell) for cell in cells]
        if not study_folders.cut(self.study, cells, folders):
            study_folders.clear(self.study, cells, folders)
        experiment = replace(experiment_of(self.study, cells[0]), runs=self.place, seeds=len(cells))
        with (folders[0] / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
            ready = self._prepared(experiment)
        try:
            self._resumed(experiment, ready, cells, folders, stop)
        except BadUpdates:
            study_folders.clear(self.study, cells, folders)  # its checkpoint is the state that went wrong
            raise
        seconds = (time.monotonic() - started) / len(cells)
        results = [json.loads((folder / "result.json").read_text()) for folder in folders]
        rows = [self._row(cell, ready.worlds, result, seconds) for cell, result in zip(cells, results, strict=True)]
        self.table.append(*rows)
        shutil.rmtree(folders[0] / "checkpoints", ignore_errors=True)
        for row in rows:
            said = f"{row.real_return:,.0f}, {row.falls} of {row.episodes} fall, {seconds:.0f} s"
            print(f"{told(row.cell)}: {said}", flush=True)

    def _resumed(
        self, experiment: Experiment, ready: Ready, cells: list[Cell], folders: list[Path], stop: Stop
    ) -> None:
        """As _train; from the start where the checkpoint of a cut run is of no use, such as one of earlier code."""
        try:
            _train(experiment, ready, cells, folders, stop)
        except Refused as error:
            if not (folders[0] / "checkpoints").exists():
                raise
            print(f"{told(cells[0])}: starts anew, for its checkpoint is of no use ({error})", flush=True)
            study_folders.clear(self.study, cells, folders)
            _train(experiment, ready, cells, folders, stop)

    def _prepared(self, experiment: Experiment) -> Ready:
        """The worlds and the program; those of the cell before where only the seed differs and chooses no rows."""
        shape = experiment if experiment.log_share < 1.0 else replace(experiment, seed=0)
        if self._ready is None or self._ready.shape != shape:
            self._close()
            made = preflight.prepare(experiment, None)
            ((_, algorithm),) = made.learners.values()
            try:
                compiled = training.program(experiment, made.worlds, algorithm, experiment.seeds > 1)
            except ValueError as error:
                raise Refused(str(error)) from error
            self._ready = Ready(shape, made.worlds, algorithm, compiled)
        return self._ready

    def _close(self) -> None:
        if self._ready is not None and self._ready.worlds.real is not None:
            self._ready.worlds.real.close()
        self._ready = None

    def _row(self, cell: Cell, worlds: Worlds, result: dict, seconds: float) -> Row:
        total, reference = float(np.mean(result["real_returns"])), self.study.tasks[cell.task].reference
        behaviour = None if cell.data == ANY else worlds.behaviour_return
        return Row(
            self.study.name,
            *cell,
            updates=result["updates"],
            real_return=total,
            real_std=float(np.std(result["real_returns"])),
            falls=result["falls"],
            episodes=len(result["real_returns"]),
            sim_return=math.nan if cell.gap == ANY else result["sim_return"],
            behaviour_return=math.nan if behaviour is None else behaviour,
            normalised=math.nan if reference is None else normalised(total, reference),
            wall_seconds=seconds,
            settings=settings_of(experiment_of(self.study, cell)),
            **self._origin,
        )


def _train(experiment: Experiment, ready: Ready, cells: list[Cell], folders: list[Path], stop: Stop) -> None:
    """Trains to the end of the budget, from a checkpoint where there is one, and tests."""
    seeds = [cell.seed for cell in cells]
    with (folders[0] / "log.txt").open("a") as log, contextlib.redirect_stdout(log):
        trained = training.train(
            experiment, ready.worlds, ready.algorithm, seeds, folders, cells[0].method, stop, ready.compiled
        )
        for folder, outcome, seed in zip(folders, trained, seeds, strict=True):
            session.test(experiment, ready.worlds, outcome, folder, seed, stop)


def _origin() -> dict[str, str]:
    git, device = git_state(ROOT), jax.devices()[0]
    packages = " ".join(f"{name} {version(name)}" for name in PACKAGES)
    return {
        "device": device.platform if device.platform == device.device_kind else device.device_kind,
        "commit": f"{str(git['commit'])[:12]}{' and changes' if git['changed'] else ''}",
        "versions": f"python {platform.python_version()} {packages}",
    }


def _together(study: Study, cell: Cell) -> bool:
    """Whether the seeds of a cell's program run at once: on an accelerator, where all learn from the same rows."""
    return jax.default_backend() != "cpu" and experiment_of(study, cell).log_share == 1.0


def told(cell: Cell) -> str:
    """A cell in words."""
    return " ".join(f"{axis} {value}" for axis, value in cell._asdict().items() if value != ANY)
