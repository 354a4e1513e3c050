"""Data sets in Minari's layout on disk, read with h5py alone.

A folder `data` holds `main_data.hdf5` with the groups episode_0, episode_1, ..., each with observations [T + 1, O],
actions [T, A], rewards, terminations and truncations [T], and `metadata.json`. Every successor is there. A step that is
both terminated and truncated is a terminal; an episode that ends without a flag was cut, a timeout. `infos` and further
names are passed over. Read are flat Box observations and actions; nothing is rescaled.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from hybrid_jax.datasets import checks, hdf5, minari_metadata, opening, reading
from hybrid_jax.datasets.faults import DatasetError, Fault
from hybrid_jax.datasets.opening import READ_ERRORS, Contents, first_line
from hybrid_jax.types import Spec

NAME = "main_data.hdf5"
MAX_EPISODES = 100_000
ENOUGH = 100  # faulty episodes, after which no more are looked at
KEYS = {  # -> the name in D4RL's layout
    "observations": "observations",
    "actions": "actions",
    "rewards": "rewards",
    "terminations": "terminals",
    "truncations": "timeouts",
}
_EPISODE = re.compile(r"episode_(0|[1-9][0-9]{0,8})")


class _Sizes(NamedTuple):
    """What an episode declares."""

    steps: int
    widths: tuple[int, int]  # of observations and actions
    declared: int  # [bytes]


def load(path: str | os.PathLike, spec: Spec | None = None) -> hdf5.Dataset:
    """Reads and checks a set: its folder, the folder `data` in it, or the file there.

    spec: the environment that the rows must fit; None takes the widths from the file.
    Raises DatasetError with every fault, each with its key, first bad row and count.
    """
    return hdf5.dataset_of(read(Path(path)), path, spec)


def data_folder(path: Path) -> Path | None:
    """Where a Minari set's files lie in a folder; None where none are seen."""
    places = (path / "data", path)
    return next((p for p in places for name in (NAME, minari_metadata.NAME) if os.path.lexists(p / name)), None)


def holds_episodes(path: Path) -> bool:
    """Whether an HDF5 file has Minari's groups and not D4RL's columns; raises DatasetError for a damaged one."""
    with reading.opened(path) as file:
        return file.id.links.exists(b"episode_0") and not file.id.links.exists(b"observations")


def read(path: Path) -> Contents:
    """Reads the steps of all episodes and nothing else; raises DatasetError where they cannot be put together."""
    folder, file_path, about = data_folder(path) if path.is_dir() else path.parent, path, {}
    if folder is None:
        raise opening.refused(path, f"is a folder without data/{NAME}")
    if path.is_dir():
        file_path = folder / NAME
    if file_path.name == NAME:  # else a neighbour's
        about = minari_metadata.read(folder / minari_metadata.NAME, path)
        _raise(path, minari_metadata.faults(about))
    with reading.opened(file_path, where=path) as file:
        about = minari_metadata.attributes(file) | about
        count, ignored = _count(file, path, about)
        sizes, others = _looked_at(file, path, count, file_path.stat().st_size)
        return _contents(file, path, sizes, about, ignored + others)


def _raise(path: Path, faults: Iterable[Fault]) -> None:
    if found := list(faults):
        raise DatasetError(str(path), found)


def _count(file: h5py.File, path: Path, about: Mapping) -> tuple[int, list[str]]:
    """How many episodes there are, none missing, and the other names; raises DatasetError."""
    names = file.id.get_num_objs()
    if names > MAX_EPISODES:
        raise opening.refused(path, f"holds {names:,} names, at most {MAX_EPISODES:,} are read", count=names)
    matches = {name: _EPISODE.fullmatch(str(name)) for name in file}
    numbers = {int(match[1]) for match in matches.values() if match}
    others = [opening.printable(str(name)) for name, match in matches.items() if not match]
    if not numbers:
        holds = f"the file holds {', '.join(others[:8])}" if others else "nothing is there"
        raise opening.refused(path, f"is missing; {holds}", "episode_0")
    last = max(numbers)
    if missing := last + 1 - len(numbers):
        first = next(number for number in range(last) if number not in numbers)
        raise opening.refused(path, f"is missing, the episodes go up to episode_{last}", f"episode_{first}", missing)
    told = about.get("total_episodes", len(numbers))
    if told != len(numbers):
        said = opening.printable(str(told))
        raise opening.refused(path, f"holds {len(numbers):,} episodes, its metadata say {said}: some are lost")
    return len(numbers), [name for name in others if name not in opening.PASSED_OVER]


def _looked_at(file: h5py.File, path: Path, count: int, on_disk: int) -> tuple[list[_Sizes], list[str]]:
    """The sizes of all episodes, no value read, and the other names in them; raises DatasetError."""
    sizes, bad, others = [], [], {}
    for number in range(count):
        found = _episode(file, f"episode_{number}", on_disk, others)
        if isinstance(found, _Sizes):
            first = sizes[0] if sizes else found
            pairs = zip(("observations", "actions"), found.widths, first.widths, strict=True)
            different = {key: f"are {width} wide, others {usual}" for key, width, usual in pairs if width != usual}
            sizes.append(found)
            found = different
        if found:
            bad.append((number, found))
        if len(bad) == ENOUGH:
            break
    _raise(path, _gathered(bad))
    opening.check_total(path, sum(each.declared for each in sizes), on_disk)
    return sizes, list(others)


def _episode(file: h5py.File, name: str, on_disk: int, others: dict[str, None]) -> _Sizes | dict[str, str]:
    """What an episode declares, or what is wrong with it by key; "" is the episode itself."""
    if reading.is_link(file, name):
        return {"": "is a link to another place, wanted is the data itself"}
    group = file[name]
    if not isinstance(group, h5py.Group):
        return {"": "is an array or a type, wanted is a group"}
    if group.id.get_num_objs() > opening.MAX_NAMES:
        return {"": f"holds {group.id.get_num_objs():,} names, at most {opening.MAX_NAMES:,} are read"}
    others.update(dict.fromkeys(reading.foreign(group, KEYS)))
    columns, faults = reading.arrays_in(group, KEYS)
    bad = {fault.key: fault.sentence for fault in faults}
    bad = {key: words + (minari_metadata.cure(key) if "is a group" in words else "") for key, words in bad.items()}
    bad |= {key: "is missing" for key in KEYS if key not in columns and key not in bad}
    declared = 0
    for key, column in columns.items():
        size, problem = reading.size(column, on_disk)
        declared += size + 4 * math.prod(column.shape) * (key == "observations")  # successors beside them
        if problem:
            bad[key] = problem
        for fault in checks.form(KEYS[key], column):
            bad[key] = fault.sentence + minari_metadata.cure(key)
    if bad:
        return bad
    steps = {key: len(column) - (key == "observations") for key, column in columns.items()}
    usual = Counter(steps.values()).most_common(1)[0][0]
    for key in [key for key in steps if steps[key] != usual]:
        wanted = f"{usual + 1:,}, one more than steps" if key == "observations" else f"{usual:,}"
        bad[key] = f"has {len(columns[key]):,} rows, wanted are {wanted}"
    return bad or _Sizes(usual, (columns["observations"].shape[1], columns["actions"].shape[1]), declared)


def _gathered(bad: Iterable[tuple[int, Mapping[str, str]]]) -> list[Fault]:
    """One fault for all episodes with the same thing wrong, whatever the numbers in it."""
    alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for number, found in bad:
        for key, sentence in found.items():
            name = f"episode_{number}/{key}".rstrip("/")
            alike.setdefault((key, re.sub(r"\d+", "", sentence)), []).append((name, sentence))
    return [
        Fault(cases[0][0], None, len(cases), cases[0][1] + ("" if len(cases) == 1 else f"; {len(cases) - 1:,} more"))
        for cases in alike.values()
    ]


def _contents(file: h5py.File, path: Path, sizes: list[_Sizes], about: Mapping, ignored: list[str]) -> Contents:
    """The rows of all episodes; raises DatasetError for values that cannot be read."""
    steps = np.array([each.steps for each in sizes])
    starts, total = np.cumsum(steps) - steps, int(steps.sum())
    obs, following = (np.empty((total, sizes[0].widths[0]), np.float32) for _ in range(2))
    columns = {"actions": np.empty((total, sizes[0].widths[1]), np.float32), "rewards": np.empty(total, np.float32)}
    columns |= {key: np.empty(total, np.float64) for key in ("terminations", "truncations")}
    bad = []
    for number, (start, count) in enumerate(zip(starts, steps, strict=True)):
        rows, group = slice(start, start + count), file[f"episode_{number}"]
        for key in KEYS:
            try:
                values = reading.values(KEYS[key], group[key])  # pyright: ignore[reportIndexIssue, reportArgumentType]
            except READ_ERRORS as error:
                bad.append((number, {key: f"cannot be read ({first_line(error)})"}))
                continue
            if key == "observations":
                obs[rows], following[rows] = values[:-1], values[1:]
            else:
                columns[key][rows] = values
    _raise(path, _gathered(bad))
    ends, cut = (columns.pop(key) for key in ("terminations", "truncations"))
    faults = [*checks.flags("terminations", ends), *checks.flags("truncations", cut)]
    ends, cut, last = ends == 1, cut == 1, np.isin(np.arange(total), starts + steps - 1)
    warnings = minari_metadata.warnings(about, total)
    if both := int((ends & cut).sum()):
        warnings.append(Fault("truncations", None, both, f"{both:,} steps are terminated, too: taken as terminals"))
    if unmarked := int((last & ~ends & ~cut).sum()):
        warnings.append(Fault("truncations", None, unmarked, f"{unmarked:,} episodes end unmarked: taken as cut"))
    flags = {"terminals": ends, "timeouts": (cut | last) & ~ends}
    arrays = {"observations": obs, "next_observations": following, **columns, **flags}
    return Contents(arrays, faults, ignored, warnings, starts)
