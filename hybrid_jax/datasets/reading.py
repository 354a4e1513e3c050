"""The guarded reading of an HDF5 file's arrays: what could mislead, run code or fill the memory is refused unread.

Refused are links, data in other files, foreign filters and types, blocks never written, and sizes beyond what is
stored or free.
"""

import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from h5py.h5l import TYPE_HARD

from hybrid_jax.datasets import checks
from hybrid_jax.datasets.faults import DatasetError, Fault

MAX_NAMES = 1000  # in the root group
BOMB_BYTES, BOMB_RATIO = 2**30, 100  # larger than this AND this many times what is stored: refused
PASSED_OVER = {"infos", "metadata"}
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


class Contents(NamedTuple):
    """What a file holds of the layout, and what of it was refused."""

    arrays: dict[str, np.ndarray]
    faults: list[Fault]
    ignored: list[str]  # names of the root group outside the layout


def read(path: Path) -> Contents:
    """Reads the layout's columns and nothing else; raises DatasetError where nothing can be read."""
    problem = _not_a_file(path)
    if problem is None:
        try:
            with h5py.File(path, "r") as file:
                return _contents(file, path)
        except DatasetError:
            raise
        except _READ_ERRORS as error:
            problem = f"is damaged, cut short or still being written ({_first_line(error)})"
    raise DatasetError(str(path), [Fault("file", None, 1, problem)])


def _not_a_file(path: Path) -> str | None:
    """Why there is no HDF5 file at the path, found without opening what might block."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "is a folder"
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        with path.open("rb"):
            pass
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if status.st_size == 0:
        return "is empty"
    return None if h5py.is_hdf5(path) else "is not an HDF5 file, or its head is damaged"


def _contents(file: h5py.File, path: Path) -> Contents:
    names = file.id.get_num_objs()
    if names > MAX_NAMES:
        raise DatasetError(
            str(path), [Fault("file", None, names, f"holds {names:,} names, at most {MAX_NAMES:,} are read")]
        )
    faults, columns = [], {}
    for key in checks.KEYS:
        if file.id.links.exists(key.encode()):
            try:
                problem = _unsafe(file, key)
            except _READ_ERRORS as error:
                problem = f"cannot be read ({_first_line(error)})"
            if problem is None:
                columns[key] = file[key]
            else:
                faults.append(Fault(key, None, 1, problem))
    faults += _too_large(columns, path)
    arrays = {}
    for key, column in columns.items():
        if key not in {fault.key for fault in faults}:
            try:
                arrays[key] = _values(key, column)
            except _READ_ERRORS as error:
                faults.append(Fault(key, None, 1, f"cannot be read ({_first_line(error)})"))
    ignored = [str(name) for name in file if name not in checks.KEYS and name not in PASSED_OVER]
    return Contents(arrays, faults, ignored)


def _unsafe(file: h5py.File, key: str) -> str | None:
    """Why a name must not be read: it could lead to another file, run a plug-in or hide what it holds."""
    if file.id.links.get_info(key.encode()).type != TYPE_HARD:
        return "is a link to another place, wanted is the data itself"
    column = file[key]
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


def _too_large(columns: Mapping[str, h5py.Dataset], path: Path) -> list[Fault]:
    """Sizes that the file declares, against what it stores and what the memory holds; nothing is read yet."""
    faults, total, on_disk = [], 0, path.stat().st_size
    for key, column in columns.items():
        # float32 beside the stored type, and one chunk unpacked
        count, one = math.prod(column.shape), column.dtype.itemsize
        declared = count * (one + 4) + math.prod(column.chunks or (0,)) * one
        stored = column.id.get_storage_size()
        total += declared
        if declared > BOMB_BYTES and declared > BOMB_RATIO * min(stored, on_disk):
            faults.append(Fault(key, None, 1, f"declares {declared:,} bytes and stores {stored:,}"))
        elif count > 0 and (missing := _unwritten(column)):
            faults.append(Fault(key, None, missing, f"{missing:,} of its blocks were never written"))
    free = _free_memory()
    if not faults and 2 * total > free:
        faults = [Fault("file", None, 1, f"needs {2 * total:,} bytes of memory, {free:,} are free")]
        raise DatasetError(str(path), faults)
    return faults


def _unwritten(column: h5py.Dataset) -> int:
    """How many blocks of the array are not in the file; they would read as zeros."""
    if column.chunks is None:
        return int(column.id.get_storage_size() == 0)
    blocks = [-(-size // chunk) for size, chunk in zip(column.shape, column.chunks, strict=True)]
    return math.prod(blocks) - column.id.get_num_chunks()


def _free_memory() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _values(key: str, column: h5py.Dataset) -> np.ndarray:
    array = column[()]
    return array if key in checks.FLAGS or array.dtype.kind == "b" else checks.float32(array)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
