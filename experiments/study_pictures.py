"""How a study is drawn: figures by method with their intervals, and figures against the share of the log."""

from pathlib import Path
from typing import Any

from experiments.study_scores import Summary
from hybrid_jax.plots import COLOURS, DASHES, FAINT, INK, dress

RETURN = "return per episode"
_LEVEL: dict[str, Any] = {"color": FAINT, "linestyle": (0, (1, 1.5)), "linewidth": 1.2, "zorder": 1}
_BEHAVIOUR = "logged behaviour"


def plot_by_method(
    path: Path, panels: dict[str, dict[str, Summary | None]], strong: str, behaviour_return: float | None, title: str
) -> None:
    """Draws mean, interval and each seed of every method, one panel beside the other; `strong` in colour.

    All panels name the same methods, from the top down; None where a method has no run.
    """
    methods = list(next(iter(panels.values())))
    figure, beside = _figure(len(panels), (2.2 + 2.9 * len(panels), 1.6 + 0.32 * len(methods)), title)
    for axes, (heading, found) in zip(beside, panels.items(), strict=True):
        dress(axes, "x")
        axes.set_title(heading, loc="left", fontsize=10, color=INK)
        if behaviour_return is not None:
            axes.axvline(behaviour_return, **_LEVEL)
        for y, (method, summary) in enumerate(found.items()):
            if summary is not None:
                _interval(axes, y, summary, COLOURS[0] if method == strong else INK)
        axes.set_xlabel(RETURN)
        axes.xaxis.set_major_formatter(_thousands())
    beside[0].set_yticks(range(len(methods)), methods)
    beside[0].set_ylim(len(methods) - 0.5, -0.5)
    seed = {"color": INK, "marker": "o", "linestyle": "", "alpha": 0.3, "markersize": 4, "markeredgewidth": 0}
    looks = {"mean, 95 % interval": {"color": INK, "marker": "o", "linewidth": 2.0}, "one seed": seed}
    _key(figure, looks, behaviour_return)
    _save(figure, path)


def _interval(axes: Any, y: int, summary: Summary, colour: str) -> None:
    seeds = {"color": colour, "alpha": 0.3, "markersize": 4, "markeredgewidth": 0}
    axes.plot(summary.values, [y] * len(summary.values), "o", **seeds)
    axes.plot([summary.low, summary.high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt")
    axes.plot(summary.middle, y, "o", color=colour, markersize=6.5)


def plot_by_share(
    path: Path,
    panels: dict[str, dict[str, dict[float, Summary]]],
    strong: str,
    behaviour_return: float | None,
    title: str,
) -> None:
    """Draws each method's mean against the share of the log with its interval as a band, a panel beside the other.

    panels: heading -> method -> share -> figure; `strong` is drawn strongest.
    """
    methods = list(dict.fromkeys(method for found in panels.values() for method in found))
    looks = _looks(methods, strong)
    figure, beside = _figure(len(panels), (1.6 + 3.1 * len(panels), 4.8), title)
    shares = sorted({share for found in panels.values() for line in found.values() for share in line})
    for axes, (heading, found) in zip(beside, panels.items(), strict=True):
        dress(axes)
        axes.set_title(heading, loc="left", fontsize=10, color=INK)
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{100 * share:.3g} %" for share in shares])
        axes.minorticks_off()
        if behaviour_return is not None:
            axes.axhline(behaviour_return, **_LEVEL)
        for method, line in found.items():
            x, summaries = sorted(line), [line[share] for share in sorted(line)]
            axes.plot(x, [summary.middle for summary in summaries], **looks[method])
            band = [summary.low for summary in summaries], [summary.high for summary in summaries]
            alpha = 0.18 if method == strong else 0.07
            axes.fill_between(x, *band, color=looks[method]["color"], alpha=alpha, linewidth=0)
        axes.set_xlabel("share of the log")
    beside[0].set_ylabel(RETURN)
    beside[0].yaxis.set_major_formatter(_thousands())
    _key(figure, looks, behaviour_return)
    _save(figure, path)


def plot_episodes(path: Path, found: dict[str, list[Any]], columns: list[tuple[str, str]], title: str) -> None:
    """Draws episodes (`study_episodes.Seen`) against time: a column of panels a method, a row of them a quantity.

    columns: (name, unit) of each quantity; an episode that ended in a fall is drawn in the second colour, with a cross.
    """
    figure, panels = _grid(len(columns), len(found), (1.2 + 1.55 * len(found), 1.4 + 1.7 * len(columns)), title)
    for j, (method, episodes) in enumerate(found.items()):
        panels[0][j].set_title(method, loc="left", fontsize=9, color=INK)
        for i, axes in enumerate(row[j] for row in panels):
            dress(axes)
            for seen in episodes:
                colour = COLOURS[1] if seen.fell else COLOURS[0]
                axes.plot(seen.t, seen.columns[i], color=colour, linewidth=0.9, alpha=0.8)
                if seen.fell:
                    axes.plot(seen.t[-1:], seen.columns[i][-1:], "x", color=colour, markersize=6, markeredgewidth=1.6)
        panels[-1][j].set_xlabel("time [s]")
    for row, (name, unit) in zip(panels, columns, strict=True):
        row[0].set_ylabel(f"{name} [{unit}]")
    ends = {"stands to the end": {"color": COLOURS[0], "linewidth": 1.5}}
    _key(figure, ends | {"falls": {"color": COLOURS[1], "linewidth": 1.5, "marker": "x"}}, None)
    _save(figure, path)


def _looks(methods: list[str], strong: str) -> dict[str, dict[str, Any]]:
    """A colour, a dash and a marker for each line; never the same two."""
    others, looks = [*COLOURS[1:], INK], {}
    for i, method in enumerate(method for method in methods if method != strong):
        style = "-" if i < len(others) else DASHES
        looks[method] = {"color": others[i % len(others)], "linestyle": style, "marker": "s^Dv<>PXp"[i % 9]}
    looks = {name: look | {"linewidth": 1.4, "markersize": 5, "zorder": 10} for name, look in looks.items()}
    if strong in methods:
        looks[strong] = {"color": COLOURS[0], "marker": "o", "linewidth": 2.6, "markersize": 6, "zorder": 20}
    return {method: looks[method] for method in methods}


def _figure(columns: int, size: tuple[float, float], title: str) -> tuple[Any, list]:
    """Panels side by side on one pair of scales."""
    figure, panels = _grid(1, columns, size, title)
    return figure, panels[0]


def _grid(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Any, list[list]]:
    """Panels in rows of one scale each, over one another on one scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    panels = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    return figure, [list(row) for row in panels]


def _key(figure: Any, looks: dict[str, dict[str, Any]], behaviour_return: float | None) -> None:
    """A legend below all panels."""
    from matplotlib.lines import Line2D

    if behaviour_return is not None:
        looks = looks | {_BEHAVIOUR: _LEVEL}
    legend = figure.legend(
        [Line2D([], [], **look) for look in looks.values()],
        list(looks),
        loc="outside lower center",
        ncols=min(len(looks), 5),
        frameon=False,
        fontsize=9,
        handlelength=2.6,
    )
    for text in legend.get_texts():
        text.set_color(INK)


def _thousands() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, facecolor="white", metadata={"Software": None})  # the same figures, the same bytes
