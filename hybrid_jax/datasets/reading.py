"""The guarded reading of HDF5: what could mislead, run code or fill the memory is refused unread.

Refused are links, data in other files, foreign filters and types, blocks never written, and sizes beyond what is
stored or free.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py.h5l import TYPE_HARD

from hybrid_jax.datasets import checks, opening
from hybrid_jax.datasets.faults import DatasetError, Fault
from hybrid_jax.datasets.opening import READ_ERRORS, Contents, first_line

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


@contextmanager
def opened(path: Path, where: Path | None = None) -> Iterator[h5py.File]:
    """The file, open to be read; what HDF5 raises while it is becomes a DatasetError, which names `where`."""
    problem = opening.unopened(path)
    if problem is None and not h5py.is_hdf5(path):
        problem = "is not an HDF5 file, or its head is damaged"
    if problem is None:
        try:
            with h5py.File(path, "r") as file:
                yield file
            return
        except DatasetError:
            raise
        except READ_ERRORS as error:
            problem = f"is damaged, cut short or still being written ({first_line(error)})"
    raise opening.refused(where or path, problem)


def read(path: Path) -> Contents:
    """Reads the columns of D4RL's layout and nothing else; raises DatasetError where nothing can be read."""
    with opened(path) as file:
        names = file.id.get_num_objs()
        if names > opening.MAX_NAMES:
            problem = f"holds {names:,} names, at most {opening.MAX_NAMES:,} are read"
            raise opening.refused(path, problem, count=names)
        return _contents(file, path)


def _contents(file: h5py.File, path: Path) -> Contents:
    columns, faults = arrays_in(file, checks.KEYS)
    total, on_disk = 0, path.stat().st_size
    for key, column in list(columns.items()):
        declared, problem = size(column, on_disk)
        if problem:
            faults.append(Fault(key, None, 1, problem))
            del columns[key]
        else:
            total += declared
    opening.check_total(path, total, on_disk, faults)
    arrays = {}
    for key, column in columns.items():
        try:
            arrays[key] = values(key, column)
        except READ_ERRORS as error:
            faults.append(Fault(key, None, 1, f"cannot be read ({first_line(error)})"))
    return Contents(arrays, faults, foreign(file, checks.KEYS))


def arrays_in(group: h5py.Group, keys: Iterable[str]) -> tuple[dict[str, h5py.Dataset], list[Fault]]:
    """The arrays of these names that a group holds itself, unread, and why others must not be read."""
    columns, faults = {}, []
    for key in keys:
        if group.id.links.exists(key.encode()):
            try:
                problem = unsafe(group, key)
                if problem is None:
                    columns[key] = group[key]
            except READ_ERRORS as error:
                problem = f"cannot be read ({first_line(error)})"
            if problem:
                faults.append(Fault(key, None, 1, problem))
    return columns, faults


def is_link(group: h5py.Group, key: str) -> bool:
    """Whether a name leads to another place or another file."""
    return group.id.links.get_info(key.encode()).type != TYPE_HARD


def unsafe(group: h5py.Group, key: str) -> str | None:
    """Why a name must not be read: it could lead to another file, run a plug-in or hide what it holds."""
    if is_link(group, key):
        return "is a link to another place, wanted is the data itself"
    column = group[key]
    if not isinstance(column, h5py.Dataset):
        return "is a group or a type, wanted is an array"
    plan = column.id.get_create_plist()
    if column.is_virtual or plan.get_external_count() > 0:
        return "lies in another file, wanted is the data itself"
    if {plan.get_filter(i)[0] for i in range(plan.get_nfilters())} - _FILTERS:
        return "is packed by a filter other than gzip, lzf, shuffle and fletcher32"
    if column.dtype.kind not in "bfiu" or column.dtype.metadata is not None:
        return f"has type {column.dtype}, wanted are plain numbers"
    if column.shape is None:
        return "has no values"
    return None


def size(column: h5py.Dataset, on_disk: int) -> tuple[int, str | None]:
    """[bytes] that reading would take, and what is wrong with them; nothing is read."""
    # float32 beside the stored type, and one chunk unpacked
    count, one = math.prod(column.shape), column.dtype.itemsize
    declared = count * (one + 4) + math.prod(column.chunks or (0,)) * one
    problem = opening.bomb(declared, min(column.id.get_storage_size(), on_disk))
    if problem is None and count > 0 and (missing := _unwritten(column)):
        problem = f"{missing:,} of its blocks were never written"
    return declared, problem


def _unwritten(column: h5py.Dataset) -> int:
    """How many blocks of the array are not in the file; they would read as zeros."""
    if column.chunks is None:
        return int(column.id.get_storage_size() == 0)
    blocks = [-(-length // chunk) for length, chunk in zip(column.shape, column.chunks, strict=True)]
    return math.prod(blocks) - column.id.get_num_chunks()


def values(key: str, column: h5py.Dataset) -> np.ndarray:
    """What a column holds, as the checks want it."""
    return opening.as_checked(key, column[()])


def foreign(group: h5py.Group, known: Iterable[str]) -> list[str]:
    """The other names in a group, but for those that D4RL's and Minari's files carry beside the rows."""
    return [opening.printable(str(name)) for name in group if name not in {*known} | opening.PASSED_OVER]
