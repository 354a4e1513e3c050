"""The report of a study: tables and pictures between two marks of a Markdown file, whose other text stays."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from experiments import marked, study_episodes, study_markdown, study_metrics, study_plots
from experiments.study_grid import Cell, Study, grid, programs
from experiments.study_scores import Scores, named
from experiments.study_table import Row

PROGRAM = "experiments/study.py"
BEGIN, END = marked.begin(PROGRAM), marked.END
DISCRIMINATORS = """What the discriminators said, mean over {interval} and over seeds (n where runs left no metrics):
rows [%] that they place right by state and action, and by the next state too; below it the mean weight w, or DARC's
correction, of simulated rows."""


def write(study: Study, rows: list[Row], out: Path, command: str, runs: Path | None = None) -> str:
    """Writes OUT/NAME.md and its pictures; returns a sentence. Raises ConfigError where the marks are damaged.

    runs: where the runs left their folders, for pictures of their test episodes.
    """
    path = out / f"{study.name}.md"
    kept = marked.around(path, study.title, PROGRAM)
    scores = Scores(study, rows)
    if not scores.rows:
        return f"{path} is not written: no run is done"
    out.mkdir(parents=True, exist_ok=True)
    pictures = study_plots.draw(scores, out)
    for task in study.tasks:
        pictures[task] += study_episodes.draw(scores, task, runs or out, out)
    measured = study_metrics.gathered(scores, runs or out, out)
    marked.write(path, kept, _report(scores, command, pictures, measured), PROGRAM)
    names = [picture.name for of_task in pictures.values() for picture in of_task]
    return f"written: {path} with {', '.join(names)}"


def _report(
    scores: Scores, command: str, pictures: dict[str, list[Path]], measured: list[study_metrics.Measured]
) -> list[str]:
    lines = ["", *_heading(scores, command)]
    for task in scores.study.tasks:
        places = [place for place in scores.places if place.task == task]
        lines += [f"### {task.replace('_', ' ')}", "", *_introduction(scores, task)]
        lines += [*study_markdown.returns(scores, places), ""]
        if any(row.falls for row in scores.rows.values() if row.task == task):
            lines += ["Test episodes that ended in a fall:", "", *study_markdown.falls(scores, places), ""]
        for source in scores.study.tasks[task].published:
            told = study_markdown.published(scores, places, source)
            lines += [f"Published: {source}", "", *told, ""] if told else []
        told = study_metrics.discriminators(scores, places, measured)
        lines += [DISCRIMINATORS.format(interval=_interval(scores.study)), "", *told, ""] if told else []
        for path in pictures[task]:
            lines += [f"![{path.stem.replace('_', ' ')}]({path.name})", ""]
    return [*lines, *_together(scores), *_cost(scores), *_origin(scores, bool(measured))]


def _heading(scores: Scores, command: str) -> list[str]:
    study = scores.study
    episodes = " or ".join(map(str, sorted({row.episodes for row in scores.rows.values()})))
    runs = sum(map(len, programs(study, grid(study))))
    shared = ", ".join(named(method) for method in study.methods if not scores.sees_all(method))
    lines = [
        f"`{command}`: {len(scores.rows)} of {runs} runs are done.",
        "Returns are those of the policy after the last update, in the real environment:",
        f"mean over seeds ({study.seeds} unless n is told) of the mean over {episodes} test episodes that no training",
        "has seen, below it the 95 % bootstrap interval over seeds and, from four seeds on, the inter-quartile mean",
        "(IQM). Bold: the best mean of a row whose methods are all done. Few seeds make such intervals too narrow: on",
        "normal data they hold the mean in 75 % of cases with 3 seeds, 84 % with 5.",
    ]
    if shared:
        lines += ["A run stands in every row that its method cannot tell apart, for it sees no simulator or no log:"]
        lines += [f"{shared}."]
    return [*lines, ""]


def _introduction(scores: Scores, task: str) -> list[str]:
    chosen = scores.study.tasks[task]
    logs = [(data, scores.behaviour(task, data)) for data in chosen.data]
    told = "; ".join(data if np.isnan(earned) else f"{data}, mean return {earned:,.0f}" for data, earned in logs)
    text = f"{chosen.base.updates:,} updates. Log: {told}."
    if chosen.reference is not None:
        nothing, everything = chosen.reference
        text += f" In brackets: the normalised return, 0 at {nothing:,.6g} and 100 at {everything:,.6g}."
    return [text, ""]


def _together(scores: Scores) -> list[str]:
    table = study_markdown.together(scores)
    said = [
        "Inter-quartile mean of the normalised returns over tasks, gaps and seeds, and below it its 95 % interval from",
        "a bootstrap that draws the seeds of each task and gap apart (Agarwal et al. 2021, arXiv 2108.13264); n: runs.",
    ]
    return ["### All together", "", *said, "", *table, ""] if table else []


def _cost(scores: Scores) -> list[str]:
    lines = ["### What it took", "", "| method | runs | median [s] a run | all [h] |", "|---|--:|--:|--:|"]
    for method in scores.study.methods:
        seeds: defaultdict[Cell, list[float]] = defaultdict(list)
        for row in scores.rows.values():
            if row.method == method:
                seeds[row.cell._replace(seed=0)].append(row.wall_seconds)
        if seeds:
            middle = np.median([second for seconds in seeds.values() for second in seconds])
            hours = sum(len(seconds) * np.median(seconds) for seconds in seeds.values()) / 3600
            lines.append(f"| {named(method)} | {sum(map(len, seeds.values()))} | {middle:.0f} | {hours:.2f} |")
    said = (
        "Wall clock with compilation and test, one process among the study's others; all: by the median of each cell's"
    )
    return [*lines, "", said, "seeds, for a run may hold a pause of its machine.", ""]


def _interval(study: Study) -> str:
    """What a run's last record of metrics is the mean of."""
    return "the updates since the evaluation before" if study.curves else "the whole training"


def _origin(scores: Scores, measured: bool) -> list[str]:
    study, rows, lines = scores.study, list(scores.rows.values()), []
    for what in ("device", "commit", "versions"):
        counted = Counter(getattr(row, what) for row in rows)
        shown = [f"{value} ({count} runs)" if len(counted) > 1 else value for value, count in counted.items()]
        lines.append(f"- {what}: {'; '.join(shown)}")
    if scores.others:
        changed = sorted({f"{row.task} {named(row.method)}" for row in scores.others})
        lines.append(
            f"- not counted, for their settings or log were others: {len(scores.others)} of {'; '.join(changed)}"
        )
    files = {"every run": f"{study.name}.csv"}
    if measured:
        files[f"what the learners measured, mean over {_interval(study)}"] = f"{study.name}_metrics.csv"
    return [*lines, *(f"- {what}: [{name}]({name})" for what, name in files.items()), ""]
