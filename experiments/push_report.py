"""The report of the push study: real episodes to a success rate, by rates and strategy."""

import math
from collections import Counter
from pathlib import Path

import numpy as np

from experiments import marked, push_signs
from experiments.push_runs import EPISODES, SCHEDULES, STRATEGIES, Cell, Point
from experiments.push_signs import LAST, Kind, episodes_to, final
from hybrid_jax.plots import COLOURS, FAINT, INK, dress
from hybrid_jax.statistics import bootstrap_ci, stratified_ci
from hybrid_jax.types import REAL

PROGRAM = "experiments/push_study.py"
TITLE = "Planar push: how often reality is visited, and how often it is learned from"
LEVELS = (0.5, 0.9)

Grouped = dict[Kind, list[list[Point]]]


def write(runs: dict[Cell, list[Point]], cells: list[Cell], out: Path) -> str:
    """Writes OUT/push_mixing.md and .png; returns a sentence. Raises ConfigError where the marks are damaged."""
    path = out / "push_mixing.md"
    if not runs:
        return f"{path} is not written: no run is done"
    kept = marked.around(path, TITLE, PROGRAM)
    grouped: Grouped = {}
    for cell in cells:
        kind = (cell.strategy, cell.q, cell.beta)
        grouped.setdefault(kind, [])
        if cell in runs:
            grouped[kind].append(runs[cell])
    _draw(grouped, out / "push_mixing.png")
    signs = push_signs.lines({cell: runs[cell] for cell in cells if cell in runs})
    marked.write(path, kept, _lines(grouped, signs, len(cells)), PROGRAM)
    return f"written: {path}"


def _median(values: list[float], most: int) -> str:
    """Median over seeds with its bootstrap interval, where half of them got there; and how many did.

    most: the real episodes of the longest of the runs.
    """
    reached = [value for value in values if math.isfinite(value)]
    count = f"{len(reached)} of {len(values)}"
    if not values or 2 * len(reached) <= len(values):
        return f"not in {most:,} ({count})"
    later = 10.0 * max(reached) + 1  # stands for those that did not: only its order matters to a median
    low, high = stratified_ci([[min(v, later) for v in values]], statistic=lambda x: np.median(x, axis=-1))
    upper = f"not in {most:,}" if high > max(reached) else f"{high:,.0f}"
    return f"{np.median(values):,.0f}<br>{low:,.0f} to {upper} ({count})"


def _lines(grouped: Grouped, signs: list[str], of: int) -> list[str]:
    done = sum(map(len, grouped.values()))
    lines = [
        "",
        f"`python {PROGRAM}`: {done} of {of} runs are done. Success is that of {EPISODES[REAL]} greedy episodes",
        "at their last step, in MuJoCo C with reality's constants; they are no real episodes of the run. Real episodes",
        "to a success rate: the median over seeds at the first of two evaluations that show it, its 95 % bootstrap",
        f"interval, and how many got there. Final success: the mean of the last {LAST} evaluations, with the seeds'",
        "interval. Reuse: draws for each real step. sim_first does not depend on q: it visits one world, then the",
        "other. rising: beta from 0.5 to 0.9, linearly over the first two thirds of the run. late: beta = q until the",
        "simulator succeeds in 70 % of its episodes, then 0.9. From one shared store rows would come at beta = q: that",
        "law is the same (T4, tests/test_replay_theory.py), so those rows stand for it.",
        "",
        "| strategy | q real | beta real | real episodes to 50 % | to 90 % | final success | in simulation | reuse |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (strategy, q, beta), runs in grouped.items():
        if runs:
            most = max(points[-1].real_episodes for points in runs)
            first = [_median([episodes_to(points, level) for points in runs], most) for level in LEVELS]
            ends = [final(points) for points in runs]
            low, high = bootstrap_ci(ends)
            sim = np.mean([[point.sim_success for point in points[-LAST:]] for points in runs])
            reuse = np.mean([points[-1].reuse for points in runs])
            name = strategy if 0 < q < 1 else push_signs.words((strategy, q, beta))
            lines.append(
                f"| {name} | {q:g} | {beta:g} | {first[0]} | {first[1]} | {np.mean(ends):.2f}<br>"
                f"{low:.2f} to {high:.2f} | {sim:.2f} | {reuse:,.0f} |"
            )
    origins = Counter(points[0].origin for runs in grouped.values() for points in runs)
    shown = "; ".join(f"{origin} ({count} runs)" for origin, count in origins.items())
    return [*lines, "", *signs, "![Success in reality against real episodes](push_mixing.png)", "", f"- {shown}",
            "- every evaluation: [push_mixing.csv](push_mixing.csv)", ""]  # fmt: skip


def _draw(grouped: Grouped, path: Path) -> None:
    """Success in reality against real and against simulated episodes at q = 0.1, by strategy and schedule."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure((14.0, 7.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    title = "Planar push: success in reality, test episodes not counted; q = 0.1 where both worlds are visited"
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    shown = {name: {f"beta {beta:g}": (name, 0.1, beta) for beta in (0.1, 0.5, 0.9)} for name in STRATEGIES}
    shown["schedules to beta 0.9"] = {name: (name, 0.1, 0.9) for name in SCHEDULES}
    rows = figure.subplots(2, len(shown), sharex="row", sharey=True, squeeze=False)
    for panels, counted in zip(rows, ("real_episodes", "sim_episodes"), strict=True):
        for axes, (title, kinds) in zip(panels, shown.items(), strict=True):
            dress(axes)
            axes.set_title(title.replace("_", " "), loc="left", fontsize=10, color=INK)
            axes.set_xscale("log")
            axes.set_xlabel({"real_episodes": "real episodes", "sim_episodes": "simulated episodes"}[counted])
            axes.xaxis.set_minor_formatter(NullFormatter())
            colours = COLOURS if title in STRATEGIES else COLOURS[3:]
            for (label, kind), colour in zip(kinds.items(), colours, strict=False):
                _curves(axes, grouped.get(kind, []), counted, colour, label)
            _curves(axes, grouped.get(("mixed", 1.0, 1.0), []), counted, FAINT, "reality alone")
        panels[0].set_ylabel("share of successes")
    named = {label: line for axes in rows[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    rows[0][-1].legend(named.values(), named.keys(), frameon=False, fontsize=9, labelcolor=INK)
    figure.savefig(path, facecolor="white", metadata={"Software": None})


def _curves(axes, runs: list[list[Point]], counted: str, colour: str, label: str) -> None:
    """Each seed thin, and a name once; from the first episode on, as the axis is logarithmic."""
    for i, points in enumerate(runs):
        here = [point for point in points if getattr(point, counted) > 0]
        x = [getattr(point, counted) for point in here]
        y = [point.real_success for point in here]
        axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.7, label=label if i == 0 else None)
