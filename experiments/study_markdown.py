"""The tables of a study's report in Markdown: places down, methods across."""

import math
from collections.abc import Callable

from experiments.study_scores import Place, Scores, Summary, named
from hybrid_jax.statistics import interquartile_mean

CUT = 4  # seeds from which on an inter-quartile mean leaves any out


def returns(scores: Scores, places: list[Place]) -> list[str]:
    """Mean over seeds [normalised], below it interval and inter-quartile mean; the best mean of a row is bold."""
    study = scores.study

    def cells(place: Place) -> list[str]:
        found = [scores.summary(place, method) for method in study.methods]
        scaled = [scores.summary(place, method, "normalised") for method in study.methods]
        best = _best(found)
        return [_return(one, other, best, study.seeds) for one, other in zip(found, scaled, strict=True)]

    return table(scores, places, cells)


def falls(scores: Scores, places: list[Place]) -> list[str]:
    """Test episodes, of all seeds together, that ended in a fall."""

    def cell(place: Place, method: str) -> str:
        runs = scores.runs(place, method)
        return f"{sum(run.falls for run in runs)} of {sum(run.episodes for run in runs)}" if runs else "-"

    return table(scores, places, lambda place: [cell(place, method) for method in scores.study.methods])


def published(scores: Scores, places: list[Place], source: str) -> list[str]:
    """What a source tells, of whole logs, about the methods that it knows; [] where it is none of the study's."""
    told = scores.study.tasks[places[0].task].published[source]
    methods = tuple(method for method in scores.study.methods if any(method in cells for cells in told.values()))
    places = [place for place in places if place.share == "1"]
    if not (methods and places):
        return []

    def cells(place: Place) -> list[str]:
        return [told.get((place.gap, place.data), {}).get(method, "-") for method in methods]

    return table(scores, places, cells, methods)


def together(scores: Scores) -> list[str]:
    """The inter-quartile means over tasks, over all gaps and for each; [] where none can be told."""
    study, several = scores.study, len(scores.study.tasks) > 1
    groups: dict[tuple[str, str, str], list[Place]] = {}
    for gap_of in (lambda place: "all", lambda place: place.gap) if several else (lambda place: "all",):
        for place in scores.places:
            groups.setdefault((gap_of(place), place.data, place.share), []).append(place)
    lines = []
    for (gap, data, share), places in groups.items():
        found = [scores.together(places, method) for method in study.methods]
        if any(found):
            shown = [_middle_half(summary, _best(found)) for summary in found]
            lines.append(_line([gap, data, percent(share), *shown]))
    heads = [study.words.get("gap", "gap"), "data", "share", *map(named, study.methods)]
    return [_line(heads), _rule(3, len(study.methods)), *lines] if lines else []


def table(
    scores: Scores, places: list[Place], cells: Callable[[Place], list[str]], methods: tuple[str, ...] | None = None
) -> list[str]:
    """A line a place, with those of gap, data and share in which the places differ; methods: None for the study's."""
    methods = scores.study.methods if methods is None else methods
    axes = [axis for axis in ("gap", "data", "share") if len({getattr(place, axis) for place in places}) > 1] or ["gap"]
    lines = [_line([scores.study.words.get(axis, axis) for axis in axes] + [named(method) for method in methods])]
    lines.append(_rule(len(axes), len(methods)))
    for place in places:
        labels = [percent(place.share) if axis == "share" else getattr(place, axis) for axis in axes]
        lines.append(_line(labels + cells(place)))
    return lines


def percent(share: str) -> str:
    return f"{100 * float(share):.3g} %"


def _return(summary: Summary | None, scaled: Summary | None, best: float | None, seeds: int) -> str:
    if summary is None:
        return "-"
    brackets = "" if scaled is None or math.isnan(scaled.middle) else f" [{scaled.middle:.1f}]"
    fewer = "" if len(summary.values) == seeds else f", n {len(summary.values)}"
    middle = _bold(f"{summary.middle:,.0f}", summary.middle == best)
    half = f"<br>IQM {interquartile_mean(summary.values):,.0f}" if len(summary.values) >= CUT else ""
    return f"{middle}{brackets}<br>{summary.low:,.0f} to {summary.high:,.0f}{fewer}{half}"


def _middle_half(summary: Summary | None, best: float | None) -> str:
    if summary is None:
        return "-"
    middle = _bold(f"{summary.middle:.1f}", summary.middle == best)
    return f"{middle}<br>{summary.low:.1f} to {summary.high:.1f}, n {len(summary.values)}"


def _best(found: list[Summary | None]) -> float | None:
    """The highest mean of a row; None while a method of it is open."""
    middles = [summary.middle for summary in found if summary is not None]
    return max(middles, default=None) if len(middles) == len(found) else None


def _bold(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(words: int, numbers: int) -> str:
    return "|" + "---|" * words + "--:|" * numbers
