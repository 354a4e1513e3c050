"""Data sets in D4RL's HDF5 layout, read with suspicion and written to last.

Keys: observations, actions, rewards, terminals and, if there, timeouts and next_observations; D4RL's groups
`infos` and `metadata` are passed over. A compact layout of our own has no next_observations but
final_observations [E, O], the true last observation of each episode in order, and loses nothing.

A foreign file without either has no successor for the last row of an episode; `successors` drops such rows and the
loader says how many.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hybrid_jax.datasets import checks, reading, successors
from hybrid_jax.datasets.faults import DatasetError, Fault, sentences
from hybrid_jax.datasets.opening import Contents
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
    return dataset_of(reading.read(Path(path)), path, spec)


def dataset_of(contents: Contents, path: str | os.PathLike, spec: Spec | None = None) -> Dataset:
    """Checks what a reader found and makes the data set of it; raises DatasetError with every fault."""
    report = checks.check(contents.arrays, spec, str(path), known=contents.faults, ignored=contents.ignored)
    warnings = [_placed(fault, contents.starts) for fault in (*contents.warnings, *report.warnings)]
    if report.errors:
        raise DatasetError(report.where, [_placed(fault, contents.starts) for fault in report.errors], warnings)
    columns, dropped = successors.completed(contents.arrays)
    if len(columns["rewards"]) == 0:
        raise DatasetError(str(path), dropped, warnings)
    return Dataset(**columns, notes=sentences([*warnings, *dropped]))


def _placed(fault: Fault, starts: np.ndarray | None) -> Fault:
    """The fault with its row told by episode, too, where the file keeps episodes apart."""
    if starts is None or fault.row is None:
        return fault
    episode = int(np.searchsorted(starts, fault.row, "right")) - 1
    place = f" (row {fault.row - starts[episode]} of episode_{episode})"
    return fault._replace(sentence=fault.sentence + place)


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
    return arrays | {"final_observations": following[successors.last_rows(ends)]}


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
