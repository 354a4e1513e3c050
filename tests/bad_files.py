"""What the bad files of all formats share: good rows, and what can be wrong with them. Nothing is stored.

`columns()` are twelve good rows in three episodes of four; every row carries its number, and the successor at
an episode's end is 100 + its number, which no other row holds. `tests/bad_files_FORMAT.py` hold one table each.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid_jax.types import Spec

SPEC = Spec(obs_size=3, action_size=2, episode_length=4, dt=0.1)
ROWS = 12
ROOT = Path(__file__).parents[1]


def numbered(ids) -> np.ndarray:
    """[n, 3] observations that carry their number."""
    return np.stack([ids, np.asarray(ids) + 0.25, -np.asarray(ids)], axis=1).astype(np.float32)


def columns() -> dict[str, np.ndarray]:
    ids = np.arange(ROWS)
    ends = ids % 4 == 3
    return {
        "observations": numbered(ids),
        "actions": np.stack([ids / 16, -ids / 16], axis=1).astype(np.float32),
        "rewards": ids.astype(np.float32),
        "next_observations": numbered(np.where(ends, 100 + ids, ids + 1)),
        "terminals": ids == 3,
        "timeouts": ends & (ids != 3),
    }


def compact() -> dict[str, np.ndarray]:
    """The same rows in the compact layout."""
    kept = columns()
    return kept | {"final_observations": kept.pop("next_observations")[3::4]}


class Bad(NamedTuple):
    name: str
    make: Callable[[Path], Path]  # writes the file at the path, or says where else it is
    key: str  # of the fault
    words: str  # in its sentence
    row: int | None = None
    count: int = 1


def _columns_bad(name, key, change, words, row=None, count=1, base=columns) -> Callable[[Callable], Bad]:
    """Good columns but for one, to be written by `write`; change(array) gives the new one, None leaves it out."""

    def made_by(write):
        def make(path):
            arrays = base()
            changed = change(arrays.pop(key) if key in arrays else None)
            return write(path, arrays | ({} if changed is None else {key: changed}))

        return Bad(f"{key} {name}", make, key, words, row, count)

    return made_by


def _with(index, value, dtype=None):
    def change(array):
        array = array.astype(dtype or array.dtype)
        array[index] = value
        return array

    return change


def contents(write: Callable) -> list[Bad]:
    """What can be wrong with the columns of D4RL's layout, in files that write(path, arrays) makes."""
    found = []
    for key in ("observations", "actions", "rewards", "terminals"):
        found += [_columns_bad("missing", key, lambda _: None, "is missing; the file holds")]
    for key in columns():
        found += [
            _columns_bad("one short", key, lambda a: a[:-1], "has 11 rows, the others have 12", 11),
            _columns_bad("one long", key, lambda a: np.concatenate([a, a[-1:]]), "has 13 rows", 12),
        ]
    final = "final_observations"
    found += [
        _columns_bad("one short", final, lambda a: a[:-1], "the flags make 3 episodes", 2, base=compact),
        _columns_bad("one long", final, lambda a: a[[0, 1, 2, 2]], "the flags make 3 episodes", 3, base=compact),
        _columns_bad("nan", final, _with((1, 2), np.nan), "NaN", 1, base=compact),
        _columns_bad("width", final, lambda a: a[:, :2], "are 2 wide, the environment has 3", base=compact),
        _columns_bad("beside successors", final, lambda _: numbered([1, 2, 3]), "no `next_observations`"),
    ]
    for key, at in (("observations", (5, 1)), ("actions", (5, 1)), ("rewards", 5), ("next_observations", (5, 1))):
        for name, value in (("nan", np.nan), ("inf", np.inf), ("minus inf", -np.inf)):
            found += [_columns_bad(name, key, _with(at, value), "1 of 12 rows hold NaN or infinity", 5)]
        found += [_columns_bad("too large for float32", key, _with(at, 1e300, "f8"), "infinity", 5)]
    found += [
        _columns_bad("nan twice", "rewards", _with([4, 9], np.nan), "2 of 12 rows", 4, 2),
        _columns_bad("flat", "observations", lambda a: a[:, 0], "has shape (12,)"),
        _columns_bad("cubic", "observations", lambda a: a[..., None], "has shape (12, 3, 1)"),
        _columns_bad("flat", "actions", lambda a: a[:, 0], "has shape (12,)"),
        _columns_bad("column", "rewards", lambda a: a[:, None], "has shape (12, 1)"),
        _columns_bad("scalar", "rewards", lambda a: a[0], "has shape ()"),
        _columns_bad("column", "terminals", lambda a: a[:, None], "has shape (12, 1)"),
        _columns_bad("flat", "next_observations", lambda a: a[:, 0], "has shape (12,)"),
        _columns_bad("width", "observations", lambda a: a[:, :2], "are 2 wide, the environment has 3"),
        _columns_bad("width", "actions", lambda a: a[:, [0, 1, 1]], "are 3 wide, the environment has 2"),
        _columns_bad("width", "next_observations", lambda a: a[:, :1], "are 1 wide, the environment has 3"),
        _columns_bad("no rows", "rewards", lambda a: a[:0], "is empty"),
        _columns_bad("no width", "actions", lambda a: a[:, :0], "is empty"),
        _columns_bad("bool", "observations", lambda a: a > 2, "has type bool"),
        _columns_bad("strings", "rewards", lambda a: a.astype("S8"), "wanted are plain numbers"),
        _columns_bad("complex", "actions", lambda a: a.astype("c8"), "wanted are plain numbers"),
        _columns_bad("records", "observations", lambda a: a.view("f4,f4,f4"), "wanted are plain numbers"),
        _columns_bad("opaque", "rewards", lambda a: a.view("V4"), "wanted are plain numbers"),
        _columns_bad("0.5", "terminals", _with(2, 0.5, "f4"), "1 of 12 rows are neither 0 nor 1", 2),
        _columns_bad("255", "terminals", _with(2, 255, "u1"), "neither 0 nor 1, the first is row 2 (255)", 2),
        _columns_bad("-1", "terminals", _with(2, -1, "i8"), "neither 0 nor 1", 2),
        _columns_bad("nan", "terminals", _with(2, np.nan, "f8"), "neither 0 nor 1", 2),
        _columns_bad("2", "timeouts", _with([2, 6], 2, "u1"), "2 of 12 rows", 2, 2),
        _columns_bad("strings", "timeouts", lambda a: a.astype("S5"), "wanted are plain numbers"),
        _columns_bad("both flags", "timeouts", _with(3, True), "as terminal and as timeout", 3),
        _columns_bad("above", "actions", _with((7, 0), 1.5), "outside [-1, 1], the first is row 7", 7),
        _columns_bad("just above", "actions", _with((7, 0), 1 + 2e-6), "outside", 7),
        _columns_bad("below", "actions", _with((slice(6, 9), 1), -1.01), "3 of 12 rows lie outside", 6, 3),
        _columns_bad("in degrees", "actions", lambda a: a * 1000, "largest magnitude 687.5", 1, 11),
    ]
    return [bad(write) for bad in found]


def cut(path: Path, base: Callable[[Path], Path], length: float) -> Path:
    """length: bytes kept; a fraction of the file below 1 and above 0, from the end below 0."""
    data = base(path).read_bytes()
    kept = len(data) + length if length < 0 else length * len(data) if 0 < length < 1 else length
    path.write_bytes(data[: int(kept)])
    return path


def flipped(path: Path, byte: int, bit: int) -> Path:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)
    return path


def of_bytes(content: bytes) -> Callable[[Path], Path]:
    def make(path):
        path.write_bytes(content)
        return path

    return make


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("absent"))
    return path


def _circle(path: Path) -> Path:
    path.symlink_to(path)
    return path


def _episodes_of_one(write: Callable, path: Path) -> Path:
    arrays = columns()
    del arrays["next_observations"]
    return write(path, arrays | {"terminals": np.zeros(ROWS, bool), "timeouts": np.ones(ROWS, bool)})


def _final_without_timeouts(write: Callable, path: Path) -> Path:
    arrays = compact()
    del arrays["timeouts"]
    return write(path, arrays)


def combinations(write: Callable) -> list[Bad]:
    """Columns that are good alone and not together."""
    return [
        Bad(
            "episodes of one row",
            lambda p: _episodes_of_one(write, p),
            "next_observations",
            "nothing is left",
            None,
            ROWS,
        ),
        Bad("no timeouts", lambda p: _final_without_timeouts(write, p), "final_observations", "needs `timeouts`"),
    ]


FOREIGN = {  # what other files begin with
    "text": b"observations,actions\n1,2\n",
    "zip head": b"PK\x03\x04" + bytes(400),
    "HDF5 head": b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8,
    "npy": b"\x93NUMPY\x01\x00\x0e\x00{'descr':'<f4'}",
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "zeros": bytes(4096),
}


def no_files(what: str, *but: str) -> list[Bad]:
    """What lies at a path and is no file of this format; what: in the sentence for a file of another."""
    found = [
        Bad("absent", lambda path: path, "file", "is not there"),
        Bad("below a file", lambda path: of_bytes(b"x")(path) / "a", "file", "is not there"),
        Bad("name with a zero", lambda path: Path(f"{path}\0"), "file", "cannot be opened"),
        Bad("name too long", lambda path: path.with_name("a" * 300), "file", "cannot be opened"),
        Bad("folder", _folder, "file", "is a folder"),
        Bad("fifo", fifo, "file", "is not a regular file"),
        Bad("device", lambda path: Path("/dev/zero"), "file", "is not a regular file"),
        Bad("dangling link", _dangling, "file", "is not there"),
        Bad("link in a circle", _circle, "file", "cannot be opened"),
        Bad("empty", of_bytes(b""), "file", "is empty"),
    ]
    return found + [Bad(name, of_bytes(data), "file", what) for name, data in FOREIGN.items() if name not in but]
