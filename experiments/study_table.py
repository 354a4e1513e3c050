"""The rows of a study: one line a finished cell, and which of them count today."""

from typing import NamedTuple

from experiments.study_grid import Cell, Study, experiment_of, grid, programs, settings_of


class Row(NamedTuple):
    """A finished cell."""

    study: str
    task: str
    gap: str
    data: str
    share: str
    method: str
    seed: int
    updates: int
    real_return: float  # mean over the test episodes
    real_std: float  # over the test episodes
    falls: int
    episodes: int
    sim_return: float  # NaN for a method that learns in no simulator
    behaviour_return: float  # of the log; NaN for a method that reads none, and for a log without a whole episode
    normalised: float  # real_return where the task has constants, else NaN
    wall_seconds: (
        float  # with compilation; of seeds in one program each has its part; since the checkpoint of a cut run
    )
    device: str
    commit: str
    versions: str
    settings: str  # tells two configurations apart

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.gap, self.data, self.share, self.method, self.seed)


def finished(study: Study, rows: list[Row]) -> set[Cell]:
    """The study's cells that were run with the settings, the budget and the log that it gives them today."""
    known = {cell for program in programs(study, grid(study)) for cell in program}
    return {row.cell for row in rows if row.cell in known and _as_today(study, row)}


def other_settings(study: Study, rows: list[Row]) -> list[Row]:
    """Rows of the study's cells that count no more: run with other settings, or on another log."""
    known = {cell for program in programs(study, grid(study)) for cell in program}
    return [row for row in rows if row.cell in known and not _as_today(study, row)]


def _as_today(study: Study, row: Row) -> bool:
    return row.settings == settings_of(experiment_of(study, row.cell))
