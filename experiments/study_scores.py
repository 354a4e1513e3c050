"""The figures of a study's report: what each row of its tables holds for each method."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from experiments.study_grid import ANY, Cell, Study, shared
from experiments.study_table import Row, finished, other_settings
from hybrid_jax import statistics

NAMES = {
    "h2o": "H2O",
    "sim_only": "SAC in simulation",
    "mix": "SAC on the mix",
    "real_only": "SAC on the log",
    "cql": "CQL",
    "cql_tuned": "CQL tuned",
    "cql_recipe": "CQL recipe",
    "rebrac": "ReBRAC",
    "rlpd": "RLPD",
    "rlpd_utd1": "RLPD (UTD 1)",
    "darc": "DARC",
    "darc_online": "DARC online",
    "darc_plus": "DARC+",
    "h2o_no_penalty": "H2O without penalty",
    "h2o_no_weight": "H2O without weight",
    "h2o_uniform": "H2O with u = 1",
    "h2o_linear": "H2O with linear penalty",
}


class Summary(NamedTuple):
    """A figure over seeds with its 95 % interval."""

    middle: float
    low: float
    high: float
    values: tuple[float, ...]  # one a seed


class Place(NamedTuple):
    """A row of the tables: what the methods in it have in common."""

    task: str
    gap: str
    data: str
    share: str


class Scores:
    """The finished runs of a study by the places that they stand in."""

    def __init__(self, study: Study, rows: list[Row]):
        done = finished(study, rows)
        self.study = study
        self.others = other_settings(study, rows)
        kept = [row for row in rows if row.cell in done and row not in self.others]
        self.rows = {row.cell: row for row in kept}  # of two the later one
        self.places = [
            Place(name, gap, data, f"{share:g}")
            for name, task in study.tasks.items()
            for data in task.data
            for share in study.shares
            for gap in task.gaps
        ]

    def runs(self, place: Place, method: str) -> list[Row]:
        """The runs of a method that stand in a place, in the order of their seeds."""
        cells = [shared(self.study, Cell(*place, method, seed)) for seed in range(self.study.seeds)]
        return [self.rows[cell] for cell in cells if cell in self.rows]

    def summary(self, place: Place, method: str, what: str = "real_return") -> Summary | None:
        """The mean over seeds; None where none has run."""
        values = [getattr(row, what) for row in self.runs(place, method)]
        if not values:
            return None
        return Summary(float(np.mean(values)), *statistics.bootstrap_ci(values), tuple(values))

    def together(self, places: list[Place], method: str) -> Summary | None:
        """The inter-quartile mean of the normalised returns of several places; None unless each has a run.

        A run that stands in several of the places counts in each, as the other methods' runs do, but is drawn once for
        the interval: `values` holds each run once.
        """
        standing = Counter(tuple(self.runs(place, method)) for place in places)
        if () in standing or not standing:
            return None
        values = [[row.normalised for row in runs] for runs in standing]
        once = tuple(value for stratum in values for value in stratum)
        if not all(map(math.isfinite, once)):
            return None
        times = list(standing.values())
        every = [value for stratum, often in zip(values, times, strict=True) for value in often * stratum]
        interval = statistics.stratified_ci(values, times=times)
        return Summary(statistics.interquartile_mean(every), *interval, once)

    def behaviour(self, task: str, data: str) -> float:
        """The mean return of the log's driver; NaN where no run has told it."""
        told = [row.behaviour_return for row in self.rows.values() if (row.task, row.data) == (task, data)]
        return next((value for value in told if math.isfinite(value)), math.nan)

    def sees_all(self, method: str) -> bool:
        """Whether a method's runs differ with gap, data and share."""
        return all(ANY not in shared(self.study, Cell(*place, method, 0)) for place in self.places)


def named(method: str) -> str:
    """A method's name in the report."""
    return NAMES.get(method, method)
