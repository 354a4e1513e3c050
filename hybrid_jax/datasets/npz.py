"""Data sets in numpy's .npz: the keys of D4RL's layout (see `hdf5`), one array each.

The head of an array is read here and nothing in it is evaluated: an array of objects would be a pickle, which runs
code. What could mislead or fill the memory is refused unread.
"""

import math
import os
import re
from pathlib import Path
from typing import IO, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np

from hybrid_jax.datasets import archive, checks, hdf5, opening
from hybrid_jax.datasets.faults import Fault
from hybrid_jax.datasets.opening import Contents, first_line
from hybrid_jax.types import Spec

MAX_HEAD = 4096  # [bytes] of an array's head
MAX_AXES = 8
_MAGIC = b"\x93NUMPY"
_SHAPE = r"\(\s*(?:\d{1,18}\s*,\s*)*(?:\d{1,18}\s*)?\)"
_ITEM = re.compile(rf"'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|{_SHAPE})", re.ASCII)
_TYPES = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"}
_ERRORS = (*opening.READ_ERRORS, BadZipFile)
_BLOCK = 2**20  # [bytes] unpacked at a time


class _Array(NamedTuple):
    """An array as its head describes it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str  # C or F
    place: int  # of the first value, behind the head


def load(path: str | os.PathLike, spec: Spec | None = None) -> hdf5.Dataset:
    """Reads and checks a file.

    spec: the environment that the rows must fit; None takes the widths from the file.
    Raises DatasetError with every fault, each with its key, first bad row and count.
    """
    return hdf5.dataset_of(read(Path(path)), path, spec)


def read(path: Path) -> Contents:
    """Reads the layout's arrays and nothing else; raises DatasetError where nothing can be read."""
    with archive.opened(path) as file:
        faults = archive.faults(file)
        bad = {fault.key for fault in faults}
        names = {member.orig_filename for member in file.infolist()}
        wanted = {key for key in checks.KEYS if f"{key}.npy" in names}
        heads = {}
        for key in [key for key in checks.KEYS if key in wanted - bad]:
            try:
                heads[key] = _head_of(file, key)
            except _ERRORS as error:
                faults.append(Fault(key, None, 1, f"cannot be read ({first_line(error)})"))
        # what is unpacked, and float32 beside it
        declared = sum(math.prod(head.shape) * (head.dtype.itemsize + 4) for head in heads.values())
        opening.check_total(path, declared, path.stat().st_size, faults)
        arrays = {}
        for key, head in heads.items():
            try:
                arrays[key] = opening.as_checked(key, _values(file, key, head))
            except _ERRORS as error:
                faults.append(Fault(key, None, 1, f"cannot be read ({first_line(error)})"))
        others = names - {f"{key}.npy" for key in wanted} - {name for name in names if archive.key_of(name) in bad}
        ignored = sorted(opening.printable(name) for name in others if name.split("/")[0] not in opening.PASSED_OVER)
        return Contents(arrays, faults, ignored)


def _head_of(file: ZipFile, key: str) -> _Array:
    """The head of one member; raises ValueError where it is not that of plain numbers."""
    with file.open(f"{key}.npy") as stream:
        head = _head(stream)
    size = file.getinfo(f"{key}.npy").file_size
    declared = head.place + math.prod(head.shape) * head.dtype.itemsize
    if declared != size:
        raise ValueError(f"it declares {declared:,} bytes and holds {size:,}")
    return head


def _head(stream: IO[bytes]) -> _Array:
    """Reads the head of an .npy file; raises ValueError."""
    magic, version = stream.read(len(_MAGIC)), stream.read(2)
    if magic != _MAGIC or version[:1] not in (b"\1", b"\2", b"\3"):
        raise ValueError("it is not an .npy array")
    wide = 2 if version[:1] == b"\1" else 4
    length = int.from_bytes(stream.read(wide), "little")
    if length > MAX_HEAD:
        raise ValueError(f"its head has {length:,} bytes, at most {MAX_HEAD:,} are read")
    text = stream.read(length).decode("latin1")
    found = _ITEM.findall(text)
    items = dict(found)
    if len(found) != 3 or len(items) != 3 or set(_ITEM.sub("", text)) - set("{}, \n"):
        raise ValueError("its head is unknown, wanted are plain numbers")
    kind = items["descr"].strip("'")
    if kind.lstrip("<>|=") not in _TYPES or len(kind) != 3:
        raise ValueError(f"it has type {opening.printable(kind)}, wanted are plain numbers")
    shape = tuple(map(int, re.findall(r"\d+", items["shape"])))
    if len(shape) > MAX_AXES:
        raise ValueError(f"it has {len(shape)} axes")
    order = "F" if items["fortran_order"] == "True" else "C"
    return _Array(np.dtype(kind), shape, order, len(_MAGIC) + 2 + wide + length)


def _values(file: ZipFile, key: str, head: _Array) -> np.ndarray:
    """The values of one member, by blocks; the checksum is compared at its end. Raises ValueError, BadZipFile."""
    array = np.empty(math.prod(head.shape), head.dtype)
    room = array.view(np.uint8)
    with file.open(f"{key}.npy") as stream:
        stream.read(head.place)
        for start in range(0, len(room), _BLOCK):
            block = stream.read(min(_BLOCK, len(room) - start))
            room[start : start + len(block)] = np.frombuffer(block, np.uint8)
            if len(block) < min(_BLOCK, len(room) - start):
                raise ValueError("it ends early")
    return array.reshape(head.shape, order=head.order)  # pyright: ignore[reportCallIssue, reportArgumentType]
