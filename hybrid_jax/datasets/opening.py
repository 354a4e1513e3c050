"""What every reader asks before it reads: is there a plain file, is its size honest, does it fit into memory?"""

import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid_jax.datasets import checks
from hybrid_jax.datasets.faults import DatasetError, Fault

MAX_NAMES = 1000  # in one group or archive
BOMB_BYTES, BOMB_RATIO = 2**28, 100  # larger than this AND this many times what is stored: refused
PASSED_OVER = {"infos", "metadata"}
READ_ERRORS = (OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError, zlib.error)
_LONGEST_NAME = 60  # [characters] of a foreign name in a message


class Contents(NamedTuple):
    """What a file holds of the layout, and what of it was refused."""

    arrays: dict[str, np.ndarray]
    faults: Sequence[Fault]
    ignored: Sequence[str]  # names outside the layout
    warnings: Sequence[Fault] = ()
    starts: np.ndarray | None = None  # [E] first row of each episode, where the file keeps episodes apart


def unopened(path: Path) -> str | None:
    """Why there is nothing to read at the path, found without opening what might block."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "is a folder"
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        with path.open("rb"):
            pass
    except (FileNotFoundError, NotADirectoryError):
        return "is not there"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    except ValueError as error:  # a name that no file can have
        return f"cannot be opened ({error})"
    return "is empty" if status.st_size == 0 else None


def refused(path: Path, sentence: str, key: str = "file", count: int = 1) -> DatasetError:
    """The error of one fault that is not one of rows."""
    return DatasetError(str(path), [Fault(key, None, count, sentence)])


def bomb(declared: int, stored: int) -> str | None:
    """Why so many bytes must not be unpacked from so few."""
    if declared > BOMB_BYTES and declared > BOMB_RATIO * stored:
        return f"declares {declared:,} bytes and stores {stored:,}"
    return None


def check_total(path: Path, declared: int, stored: int, faults: Sequence[Fault] = ()) -> None:
    """Raises DatasetError where all columns together are a bomb or do not fit into memory.

    faults: what was found before, to be told with it.
    """
    free = free_memory()
    problem = bomb(declared, stored)
    if problem is None and 2 * declared > free:
        problem = f"needs {2 * declared:,} bytes of memory, {free:,} are free"
    if problem:
        raise DatasetError(str(path), [Fault("file", None, 1, problem), *faults])


def free_memory() -> int:
    """[bytes] that may be taken without swapping."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def as_checked(key: str, array: np.ndarray) -> np.ndarray:
    """A column in the type that the checks look at: flags and booleans as they are, numbers as float32."""
    return array if key in checks.FLAGS or array.dtype.kind == "b" else checks.float32(array)


def first_line(error: BaseException) -> str:
    """What a library's error says, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def printable(name: str) -> str:
    """A foreign name as it may stand in a message: short, on one line, without commands to a terminal."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name[: _LONGEST_NAME + 1])
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}..."
