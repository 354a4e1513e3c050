"""Data sets in D4RL's HDF5 layout, read with suspicion and written to last.

Keys: observations, actions, rewards, terminals and, if there, timeouts and next_observations; D4RL's groups
`infos` and `metadata` are passed over. A compact layout of our own has no next_observations but
final_observations [E, O], the true last observation of each episode in order, and loses nothing.

A foreign file without either has no successor for the last row of an episode. Such rows are dropped, terminal
ones too, because the dynamics-gap discriminators look at every successor: the learner then sees no death in the
data. The row before a dropped end becomes a timeout, so that episodes stay apart. The loader says how many.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hybrid_jax.datasets import checks, reading
from hybrid_jax.datasets.faults import DatasetError, Fault, sentences
from hybrid_jax.types import Spec, Transition

FORMAT = "hybrid_jax 1"  # value of the attribute `format`
MAX_ATTRIBUTE = 2**15  # [bytes]
CHUNK_ROWS = 16384  # one column a chunk: neighbouring values of one quantity compress best
_MANTISSA = 23  # bits stored in a float32


class Dataset(NamedTuple):
    """Rows in the order of recording; the successor is true in every row."""

    observations: np.ndarray  # [D, O] float32
    actions: np.ndarray  # [D, A] float32 in [-1, 1]
    rewards: np.ndarray  # [D] float32
    next_observations: np.ndarray  # [D, O] float32
    terminals: np.ndarray  # [D] bool: the task ended
    timeouts: np.ndarray  # [D] bool: the recording of the episode ended, the task did not
    notes: tuple[str, ...] = ()  # what the check found odd, what was dropped or inferred


def load(path: str | os.PathLike, spec: Spec | None = None) -> Dataset:
    """Reads and checks a file.

    spec: the environment that the rows must fit; None takes the widths from the file.
    Raises DatasetError with every fault, each with its key, first bad row and count.
    """
    arrays, faults, ignored = reading.read(Path(path))
    report = checks.check(arrays, spec, str(path), known=faults, ignored=ignored)
    if report.errors:
        raise DatasetError(report.where, report.errors)
    dropped = _dropped(arrays)
    told = [_told(dropped, len(arrays["rewards"]))] if dropped else []
    if sum(dropped.values()) == len(arrays["rewards"]):
        raise DatasetError(str(path), told)
    return _with_successors(arrays)._replace(notes=sentences([*report.warnings, *told]))


def transitions(dataset: Dataset) -> Transition:
    """The rows in the stores' form: discount 0 at terminals, 1 elsewhere, also at timeouts."""
    discount = 1.0 - dataset.terminals.astype(np.float32)
    columns: Any = (dataset.observations, dataset.actions, dataset.rewards, discount, dataset.next_observations)
    return Transition(*columns)


def save(
    path: str | os.PathLike,
    dataset: Dataset,
    attributes: Mapping[str, Any],
    mantissa_bits: int | None = None,
    next_observations: bool = True,
    overwrite: bool = False,
) -> None:
    """Writes a file, whole or not at all; the same rows and attributes give the same bytes.

    attributes: how the data were made, each a string or a number.
    mantissa_bits: float precision kept, relative error <= 2^-(bits + 1); None keeps all 23.
    next_observations: False writes the compact layout.
    Raises DatasetError for what `load` would refuse, FileExistsError unless told to overwrite.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or say overwrite")
    if mantissa_bits is not None and not 1 <= mantissa_bits <= _MANTISSA:
        raise ValueError(f"mantissa_bits is {mantissa_bits}, wanted is 1 to {_MANTISSA}")
    arrays = {key: np.asarray(getattr(dataset, key)) for key in Dataset._fields if key in checks.KEYS}
    if faults := checks.check(arrays, None, str(path)).errors:
        raise DatasetError(str(path), faults)
    bits = _MANTISSA if mantissa_bits is None else mantissa_bits
    for key in arrays:
        arrays[key] = arrays[key].astype(bool) if key in checks.FLAGS else rounded(arrays[key], bits)
    if not next_observations:
        arrays = _compact(path, arrays)
    about = {
        "format": FORMAT,
        "mantissa_bits": bits,
        "relative_rounding_error": 0.0 if bits == _MANTISSA else 2.0 ** -(bits + 1),
    }
    _write(path, arrays, {key: _encoded(path, key, value) for key, value in (dict(attributes) | about).items()})


def rounded(values: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """float32 values with their mantissa rounded to `mantissa_bits`, to nearest, ties to even.

    |rounded - x| <= 2^-(mantissa_bits + 1) |x| for normal x; what would become infinite stays as it is.
    """
    values = np.ascontiguousarray(values, np.float32)
    drop = _MANTISSA - mantissa_bits
    if drop == 0:
        return values
    pattern = values.view(np.uint32)
    odd = (pattern >> np.uint32(drop)) & np.uint32(1)
    up = pattern + np.uint32((1 << (drop - 1)) - 1) + odd
    kept = (up & np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))).view(np.float32)
    return np.where(np.isfinite(values) & np.isfinite(kept), kept, values)


def _encoded(path: Path, key: str, value: Any) -> Any:
    """Strings as UTF-8 of fixed length: those of variable length lie where HDF5 keeps no checksum."""
    if isinstance(value, str):
        value = np.bytes_(value.encode() or b"\0")
    elif not isinstance(value, bool | int | float | np.bool_ | np.number):
        sentence = f"is a {type(value).__name__}, wanted is a string or a number"
        raise DatasetError(str(path), [Fault(f"attribute {key}", None, 1, sentence)])
    if np.asarray(value).nbytes > MAX_ATTRIBUTE:
        raise DatasetError(str(path), [Fault(f"attribute {key}", None, 1, f"is longer than {MAX_ATTRIBUTE:,} bytes")])
    return value


def _compact(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keeps of the successors only the last of each episode."""
    ends = arrays["terminals"] | arrays["timeouts"]
    following = arrays.pop("next_observations")
    lost = checks.broken(arrays["observations"], following) & ~ends
    if lost.any():
        sentence = (
            f"differs from the next row inside an episode, so next_observations must be written: {lost.sum():,} rows"
        )
        raise DatasetError(str(path), [Fault("next_observations", int(lost.argmax()), int(lost.sum()), sentence)])
    return arrays | {"final_observations": following[_last_rows(ends)]}


def _last_rows(ends: np.ndarray) -> np.ndarray:
    """Last row of each episode, also of an open last one."""
    return np.append(checks.episode_starts(ends)[1:] - 1, len(ends) - 1)


def _write(path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, np.bytes_]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with _created(partial) as file:
            for key, value in attributes.items():
                file.attrs[key] = value
            for key, array in arrays.items():
                chunk = (min(len(array), CHUNK_ROWS), *(1,) * (array.ndim - 1))
                file.create_dataset(
                    key,
                    data=array,
                    chunks=chunk,
                    compression="gzip",
                    shuffle=True,
                    fletcher32=True,
                    track_times=False,
                )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _created(path: Path) -> h5py.File:
    """A new file whose metadata carry checksums (format of HDF5 1.10) and no times."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    return h5py.File(h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, creation, access))


def _dropped(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many rows go for want of a successor, by how their episode ends; {} if the file has the successors."""
    if "next_observations" in arrays or "final_observations" in arrays:
        return {}
    terminals, timeouts = _flags(arrays)
    open_end = not (terminals[-1] or timeouts[-1])
    return {"terminals": int(terminals.sum()), "timeouts": int(timeouts.sum()), "the end of the file": int(open_end)}


def _told(dropped: Mapping[str, int], rows: int) -> Fault:
    parts = ", ".join(f"{count:,} at {reason}" for reason, count in dropped.items() if count)
    sentence = f"is missing, so rows without a known successor are dropped: {parts}"
    if dropped["terminals"]:
        sentence += "; no terminal row is left, the learner sees no death in these data"
    if sum(dropped.values()) == rows:
        sentence = "is missing and no row is followed by another of its episode: nothing is left"
    return Fault("next_observations", None, sum(dropped.values()), sentence)


def _flags(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Terminals and timeouts as bool; timeouts that the file lacks are where a given successor differs."""
    terminals = arrays["terminals"] == 1
    if "timeouts" in arrays:
        return terminals, arrays["timeouts"] == 1
    if "next_observations" in arrays:
        return terminals, checks.broken(arrays["observations"], arrays["next_observations"]) & ~terminals
    return terminals, np.zeros_like(terminals)


def _with_successors(arrays: Mapping[str, np.ndarray]) -> Dataset:
    """The data set of checked columns."""
    obs, (terminals, timeouts) = arrays["observations"], _flags(arrays)
    following = arrays.get("next_observations")
    keep: slice | np.ndarray = slice(None)
    if following is None:
        following, ends = np.concatenate([obs[1:], obs[-1:]]), terminals | timeouts
        last = _last_rows(ends)
        if "final_observations" in arrays:
            following[last] = arrays["final_observations"]
        else:
            keep = np.ones(len(ends), bool)
            keep[last] = False
            # The row before an end that is dropped ends the episode now, but not the task.
            terminals, timeouts = np.zeros_like(ends), np.append(ends[1:], False)
    columns = (obs, arrays["actions"], arrays["rewards"], following, terminals, timeouts)
    return Dataset(*(column[keep] for column in columns))  # pyright: ignore[reportArgumentType]
