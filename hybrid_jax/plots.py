"""Pictures of a run: learning curves, and episodes against time.

Drawn through matplotlib's Agg canvas directly, so that no display is needed and the caller's pyplot state
stays as it was. Colours are those of Okabe and Ito, which colour-blind readers tell apart.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT = "#333333", "#8A8A8A"
DASHES = (0, (3, 2))


class Curve(NamedTuple):
    """One run's learning curve; NaN where a value was not measured."""

    updates: np.ndarray  # [T]
    real: np.ndarray  # [T] return in the real environment
    sim: np.ndarray | None = None  # [T] return in the simulator
    real_band: tuple[np.ndarray, np.ndarray] | None = None  # lower [T] and upper [T] end of an interval


def plot_curve(
    path: Path, curves: dict[str, Curve], behaviour_return: float | None, title: str, against: str = "updates"
) -> None:
    """Draws return against updates: solid in the real environment, dashed in the simulator.

    The first curve is the run's own and drawn strongest; `behaviour_return`, the log's, is a level line.
    """
    figure, (axes,) = _figure(1, (8.0, 4.6), title)
    ends = []
    for i, (colour, (name, curve)) in enumerate(zip(_colours(curves), curves.items(), strict=True)):
        x = np.asarray(curve.updates, np.float64)
        wide = 2.2 if i == 0 else 1.6
        _line(axes, x, curve.real, curve.real_band, colour, "-", wide)
        if curve.sim is not None:
            _line(axes, x, curve.sim, None, colour, DASHES, 0.6 * wide)
        last = np.flatnonzero(np.isfinite(np.asarray(curve.real, np.float64)))
        if last.size:
            ends.append((float(curve.real[last[-1]]), words(name), colour))
    if behaviour_return is not None:
        axes.axhline(behaviour_return, color=FAINT, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=1)
        ends.append((float(behaviour_return), "logged behaviour", FAINT))
    axes.set_xlabel(against)
    axes.set_ylabel("return per episode")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_thousands)
    axes.margins(x=0.02)
    _label_ends(axes, ends)
    key: list[tuple[str, str, Any, float]] = [("real environment", INK, "-", 2.0)]
    if any(curve.sim is not None for curve in curves.values()):
        key.append(("simulator", INK, DASHES, 1.2))
    _key(axes, key)
    _save(figure, path)


def plot_episodes(path: Path, episodes: dict[str, dict[str, Any]], columns: list[tuple[str, str]], title: str) -> None:
    """Draws one episode per policy against time, a panel per column.

    Each episode holds `t` [T] in seconds, an array [T] per column, and `terminated`: whether it ended in a
    fall, which is marked by a cross. Columns are (name, unit).
    """
    figure, panels = _figure(len(columns), (8.0, 1.2 + 2.0 * len(columns)), title)
    key = []
    for i, (colour, (name, episode)) in enumerate(zip(_colours(episodes), episodes.items(), strict=True)):
        t = np.asarray(episode["t"], np.float64)
        for axes, (column, _) in zip(panels, columns, strict=True):
            y = np.asarray(episode[column], np.float64)
            axes.plot(t, y, color=colour, linewidth=1.4, zorder=20 - i)  # the first on top
            if episode["terminated"]:
                axes.plot(t[-1:], y[-1:], "x", color=colour, markersize=9, markeredgewidth=2.2, zorder=21)
        fate = f"fell at {t[-1]:.1f} s" if episode["terminated"] else f"lasted {t[-1]:.1f} s"
        key.append((f"{words(name)} ({fate})", colour, "-", 2.0))
    for axes, (column, unit) in zip(panels, columns, strict=True):
        axes.set_ylabel(f"{words(column)} [{unit}]")
        axes.margins(x=0.02)
        axes.axhline(0.0, color=FAINT, linewidth=0.6, zorder=0)
    panels[-1].set_xlabel("time [s]")
    _key(panels[0], key)
    _save(figure, path)


def _figure(rows: int, size: tuple[float, float], title: str) -> tuple[Any, list]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    panels[0].set_title(title, loc="left", fontsize=12, color=INK)
    for axes in panels:
        dress(axes)
    return figure, panels


def dress(axes: Any, grid: str = "y") -> None:
    """Gives axes the look of all our pictures; grid: the axis whose ticks get lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, color=FAINT)
    axes.grid(axis=grid, color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _line(axes: Any, x: np.ndarray, y: Any, band: Any, colour: str, style: Any, width: float) -> None:
    """One curve over its measured points, with its interval; a dot where there is a single point."""
    y = np.asarray(y, np.float64)
    seen = np.isfinite(y)
    marker = "o" if seen.sum() == 1 else None
    axes.plot(x[seen], y[seen], color=colour, linestyle=style, linewidth=width, marker=marker, markersize=5)
    if band is not None:
        low, high = (np.asarray(end, np.float64)[seen] for end in band)
        axes.fill_between(x[seen], low, high, color=colour, alpha=0.15, linewidth=0)


def _label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Names each line at its right end, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    heights, least = [], 0.055
    for value, *_ in sorted(ends):
        wanted = (value - low) / (high - low)
        heights.append(max(wanted, heights[-1] + least) if heights else wanted)
    # Labels pushed over the top come down again, each keeping its distance to the one above.
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - least
    for height, (_, words, colour) in zip(heights, sorted(ends), strict=True):
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (6, 0)}
        axes.annotate(words, (1.0, height), va="center", fontsize=9.5, color=colour, **place)


def _key(axes: Any, entries: list[tuple[str, str, Any, float]]) -> None:
    """A legend between title and axes: one row, or two columns where the words are many."""
    from matplotlib.lines import Line2D

    columns = len(entries) if sum(len(words) for words, *_ in entries) < 75 else 2
    rows = -(-len(entries) // columns)
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=12, color=INK, pad=10 + 16 * rows)

    lines = [Line2D([], [], color=c, linestyle=style, linewidth=width) for _, c, style, width in entries]
    legend = axes.legend(
        lines,
        [words for words, *_ in entries],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=2.4,
        columnspacing=1.6,
        borderpad=0.2,
    )
    for text in legend.get_texts():
        text.set_color(INK)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, facecolor="white", metadata={"Software": None})


def _colours(names: Iterable[str]) -> list[str]:
    """A colour per name, grey for the logged behaviour, which is context and no rival."""
    palette = itertools.cycle(COLOURS)
    return [FAINT if "behaviour" in name else next(palette) for name in names]


def _thousands(value: float, _: int) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def words(name: str) -> str:
    """`sim_only` -> `sim only`, `h2o` -> `H2O`: names of algorithms in the papers' capitals."""
    papers = {name.lower(): name for name in ("H2O", "SAC", "CQL", "DARC", "DDPG", "RLPD", "ReBRAC")}
    return " ".join(papers.get(word, word) for word in name.replace("darc_plus", "DARC+").split("_"))
