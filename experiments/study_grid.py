"""What a study is: a grid of runs over tasks, gaps, data sets, shares of the data, methods and seeds.

A method that learns from the log alone does not know the simulator, and one that learns in the simulator alone does
not know the log: such a cell is run once and stands in every row of the table that it belongs to.
"""

import hashlib
import importlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from experiments import methods
from experiments.experiment import Experiment, from_path, log_digest
from hybrid_jax.config import ConfigError, to_json
from hybrid_jax.datasets.normalised import Reference

ANY = "any"  # the gap, data set or share of a cell that does not depend on it
AnyCell = TypeVar("AnyCell", bound=NamedTuple)
# "module.Class.field" of the class that declares it -> JSON of the value that leaves earlier runs as they were.
ADDED: dict[str, str] = {}


class Cell(NamedTuple):
    """One run of a study, by its labels."""

    task: str
    gap: str
    data: str
    share: str  # of the log's rows, as a number
    method: str
    seed: int


@dataclass(frozen=True)
class Task:
    """A task of a study: what all of its cells share, and what makes its gaps and data sets."""

    base: Experiment  # networks, rates, budget and the real environment
    gaps: Mapping[str, dict[str, Any]]  # label -> the fields of the experiment that make the gap
    data: Mapping[str, dict[str, Any]]  # label -> the fields that choose the log
    reference: Reference | None = None  # the returns that count as 0 and as 100
    # source -> (gap, data) -> method -> what it tells, for a table beside ours
    published: Mapping[str, Mapping[tuple[str, str], Mapping[str, str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A grid; every combination is a cell."""

    name: str
    title: str
    tasks: Mapping[str, Task]
    methods: tuple[str, ...]
    shares: tuple[float, ...] = (1.0,)
    seeds: int = 3
    curves: bool = False  # evaluate during training as the base says; False: at the end alone
    words: Mapping[str, str] = field(default_factory=dict)  # what the axes are called in the report
    episodes_of: tuple[str, str] | None = None  # gap and share whose test episodes are drawn, by the base's columns

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in methods.METHODS:
                raise ConfigError(f"no method {name!r}; the known ones: {', '.join(methods.METHODS)}")
        for name, task in self.tasks.items():
            if task.base.live.feed != "none":
                raise ConfigError(f"task {name!r} has a robot that takes part; a study is for logs: give live=Live()")
        for share in self.shares:
            if not 0.0 < share <= 1.0:
                raise ConfigError(f"share {share:g} must be more than 0 and at most 1")
        if self.seeds < 1:
            raise ConfigError(f"seeds {self.seeds} must be at least 1")
        for labels in (self.tasks, *(side for task in self.tasks.values() for side in (task.gaps, task.data))):
            _check_labels(list(labels))


def _check_labels(labels: list[str]) -> None:
    """Labels stand in --only, and as names of folders."""
    for label in labels:
        if label == ANY or any(sign in label for sign in ",=") or not label.strip():
            raise ConfigError(f"the label {label!r} cannot be told in --only; give a name without commas and =")
    if len({slug(label) for label in labels}) < len(labels) or not labels:
        raise ConfigError(f"the labels {labels} are too few or too much alike; they must differ in letters or digits")


def slug(text: str) -> str:
    """A label as a part of a file's name."""
    return "".join(c if c.isalnum() or c == "." else "_" for c in text)


def folder_name(cell: Cell) -> str:
    """A cell as the name of a run's folder; labels that slug has told apart give different ones."""
    return "-".join(slug(str(value)) for value in cell)


def grid(study: Study) -> list[Cell]:
    """Every cell of the tables: the whole log first, then task by task, the seeds of one program side by side."""
    return [
        Cell(name, gap, data, f"{share:g}", method, seed)
        for share, (name, task) in itertools.product(study.shares, study.tasks.items())
        for data, gap, method, seed in itertools.product(task.data, task.gaps, study.methods, range(study.seeds))
    ]


def shared(study: Study, cell: Cell) -> Cell:
    """The cell that is run for a cell of the tables: the same, with ANY for what its method does not see."""
    simulates, reads = _worlds(study, cell.task, cell.method)
    if not simulates:
        cell = cell._replace(gap=ANY)
    return cell if reads else cell._replace(data=ANY, share=ANY)


def _worlds(study: Study, task: str, method: str) -> tuple[bool, bool]:
    """Whether a method learns in the simulator, and from the log."""
    config = methods.chosen(study.tasks[task].base, method).algorithm
    return methods.simulates(config), config.batch_real > 0 or hasattr(config, "discriminator_batch_real")


def programs(study: Study, cells: Iterable[Cell]) -> list[list[Cell]]:
    """The runs behind cells of the tables, each once; those that differ in their seed alone stand together."""
    found: dict[Cell, list[Cell]] = {}
    for cell in dict.fromkeys(shared(study, cell) for cell in cells):
        found.setdefault(cell._replace(seed=0), []).append(cell)
    return list(found.values())


def experiment_of(study: Study, cell: Cell) -> Experiment:
    """The run that a cell stands for. Where the cell does not depend on gap or data, their first ones serve."""
    task = study.tasks[cell.task]
    gap = next(iter(task.gaps)) if cell.gap == ANY else cell.gap
    data = next(iter(task.data)) if cell.data == ANY else cell.data
    share = 1.0 if cell.share == ANY else float(cell.share)
    made = replace(
        task.base,
        name=f"study-{study.name}",
        tensorboard=False,
        video=False,
        columns=(),
        rivals=(),
        seeds=1,
        log_share=share,
    )
    made = replace(made, **task.gaps[gap], **task.data[data], seed=cell.seed)
    if not study.curves:
        made = replace(made, evaluate_every=made.updates, episodes=1)
    return methods.chosen(made, cell.method)


def check_logs(study: Study, cells: Iterable[Cell]) -> None:
    """Raises ConfigError where a log that cells learn from is not there, before hours are spent on the others."""
    for cell in dict.fromkeys(cell._replace(method=study.methods[0], seed=0, share="1") for cell in cells):
        log = experiment_of(study, cell).dataset
        if log is not None and not log.is_file():
            raise ConfigError(
                f"task {cell.task}: its log {log} is not there; put it there or make it with experiments/collect.py, or"
                " choose other tasks with --only task=NAME"
            )


def settings_of(experiment: Experiment) -> str:
    """Twelve digits that tell two runs' settings and logs apart, whatever their seeds and folders.

    Of every field, so that a default that changes opens the finished cells again; a field that is added does not, once
    ADDED has it with the value that the runs before it had.
    """
    dataset = None if experiment.dataset is None else Path(_digest(experiment.dataset))
    told = _told(replace(experiment, seed=0, runs=Path(), dataset=dataset))
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _digest(log: Path) -> str:
    """Of a log's bytes; that of its name where it is not there."""
    return log_digest(log) if log.exists() else hashlib.sha256(log.name.encode()).hexdigest()


def _told(config: Any) -> dict[str, Any]:
    """A config's class and its fields, but for those that are as if they were not there."""
    classes = [f"{each.__module__}.{each.__qualname__}" for each in type(config).__mro__]
    told: dict[str, Any] = {"class": classes[0]}
    for name, value in to_json(config).items():
        if json.dumps(value) not in {ADDED.get(f"{each}.{name}") for each in classes}:
            own = getattr(config, name)
            told[name] = _told(own) if is_dataclass(own) else value
    return told


def chosen(cells: list[AnyCell], only: str) -> list[AnyCell]:
    """The cells that `method=h2o,method=cql,gap=gravity` names: any of one axis' values, all of the axes.

    Raises ConfigError with the known names.
    """
    wanted: dict[str, set[str]] = {}
    for pair in filter(None, only.split(",")):
        axis, equals, value = (part.strip() for part in pair.partition("="))
        if axis not in cells[0]._fields or not equals:
            known = ", ".join(cells[0]._fields)
            raise ConfigError(f"--only {pair!r} is not of the form AXIS=VALUE; the axes: {known}")
        known = list(dict.fromkeys(_label(getattr(cell, axis)) for cell in cells))
        value = value if value in known else _number(value)
        if value not in known:
            raise ConfigError(f"--only {axis}={value}: no such {axis} in this study; its own: {', '.join(known)}")
        wanted.setdefault(axis, set()).add(value)
    return [cell for cell in cells if all(_label(getattr(cell, axis)) in values for axis, values in wanted.items())]


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(text: str) -> str:
    """0.50 as 0.5; what is no number as it is."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def load(name: str) -> Study:
    """The study of that name in `studies/`, or in a user's own `path/to/mine.py`. Raises ConfigError."""
    if name.endswith(".py"):
        module = from_path(Path(name))
    elif name in names():
        module = importlib.import_module(f"experiments.studies.{name}")
    else:
        raise ConfigError(f"no study {name!r}; the known ones: {', '.join(names())}, or a path to a .py file")
    if not hasattr(module, "study"):
        raise ConfigError(f"{name} has no function study(); a study file returns its Study from it")
    made = module.study()
    if not isinstance(made, Study):
        raise ConfigError(f"{name}: its study() returns a {type(made).__name__}; return a Study")
    return made


@cache
def names() -> tuple[str, ...]:
    """The studies that come with this folder."""
    here = Path(__file__).parent / "studies"
    return tuple(sorted(path.stem for path in here.glob("*.py") if path.stem != "__init__"))
