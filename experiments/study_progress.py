"""What of a study is done and open, and how long the rest will take by the runs that are done."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from experiments import study_grid
from experiments.study_grid import Cell, Study
from experiments.study_table import Row, finished

_BY: tuple[Callable[[Cell], tuple], ...] = (  # runs alike, the closest first
    lambda cell: cell._replace(seed=0),
    lambda cell: (cell.task, cell.method),
    lambda cell: (cell.method,),
    lambda cell: (),
)


def missing(study: Study, cells: list[Cell], rows: list[Row]) -> list[Cell]:
    """The runs behind cells of the tables that are not done."""
    done = finished(study, rows)
    return [cell for program in study_grid.programs(study, cells) for cell in program if cell not in done]


def lines(study: Study, cells: list[Cell], rows: list[Row], workers: int) -> list[str]:
    """A line for each program with its seeds, then the sum."""
    done = finished(study, rows)
    programs = study_grid.programs(study, cells)
    table: list[tuple[str, ...]] = [("task", "gap", "data", "share", "method", "done", "open")]
    for program in programs:
        seeds = [" ".join(str(c.seed) for c in program if (c in done) == wanted) or "-" for wanted in (True, False)]
        table.append((*program[0][:5], *seeds))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    shown = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in table]
    total, left = sum(map(len, programs)), missing(study, cells, rows)
    return [*shown, "", f"{study.name}: {total - len(left)} of {total} runs are done{_left(left, rows, workers)}"]


def _left(cells: list[Cell], rows: list[Row], workers: int) -> str:
    if not cells:
        return ""
    if not rows:
        return "; none has told yet how long one takes"
    minutes = sum(_expected(cells, rows)) / workers / 60
    time = f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{max(minutes, 1):.0f} min"
    return f"; about {time} left on {workers} process{'es' if workers > 1 else ''}"


def _expected(cells: list[Cell], rows: list[Row]) -> list[float]:
    """[s] for each cell: the median of the done runs that are most like it; one may hold a machine's pause."""
    seen: defaultdict[tuple, list[float]] = defaultdict(list)
    for row in rows:
        for level, kind in enumerate(_BY):
            seen[level, *kind(row.cell)].append(row.wall_seconds)
    return [
        float(np.median(next(seen[key] for level, kind in enumerate(_BY) if (key := (level, *kind(cell))) in seen)))
        for cell in cells
    ]
