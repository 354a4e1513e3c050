"""Makes the files that a loader must refuse, and a few odd ones that it must take. Nothing is stored.

`columns()` are twelve good rows in three episodes of four; every row carries its number, and the successor at
an episode's end is 100 + its number, which no other row holds.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from hybrid_jax.datasets import hdf5
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


def write(path: Path, arrays: dict[str, np.ndarray], libver="earliest", **options) -> Path:
    """As other programs write: HDF5's defaults, no checksums."""
    with h5py.File(path, "w", libver=libver) as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, **options)
    return path


def saved(path: Path) -> Path:
    """As we write."""
    arrays = columns()
    hdf5.save(path, hdf5.Dataset(**arrays), {"task": "test"}, overwrite=True)
    return path


class Bad(NamedTuple):
    name: str
    make: Callable[[Path], Path]  # writes the file at the path, or says where else it is
    key: str  # of the fault
    words: str  # in its sentence
    row: int | None = None
    count: int = 1


def _columns_bad(name, key, change, words, row=None, count=1, base=columns) -> Bad:
    """A file of good columns but for one; change(array) gives the new one, None leaves it out."""

    def make(path):
        arrays = base()
        changed = change(arrays.pop(key) if key in arrays else None)
        return write(path, arrays | ({} if changed is None else {key: changed}))

    return Bad(f"{key} {name}", make, key, words, row, count)


def _with(index, value, dtype=None):
    def change(array):
        array = array.astype(dtype or array.dtype)
        array[index] = value
        return array

    return change


def _contents() -> list[Bad]:
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
        _columns_bad("no values", "rewards", lambda a: h5py.Empty("f4"), "has no values"),
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
    return found


def _odd_types(path: Path, kind: str) -> Path:
    write(path, {key: array for key, array in columns().items() if key != "actions"})
    with h5py.File(path, "a") as file:
        if kind == "vlen":
            file.create_dataset("actions", (ROWS,), h5py.vlen_dtype(np.float32))
        elif kind == "vlen string":
            file.create_dataset("actions", data=["0.5"] * ROWS, dtype=h5py.string_dtype())
        elif kind == "reference":
            file.create_dataset("actions", (ROWS, 2), h5py.ref_dtype)
        elif kind == "enum":
            file.create_dataset("actions", (ROWS, 2), h5py.enum_dtype({"LEFT": 0, "RIGHT": 1}))
        elif kind == "group":
            file.create_group("actions")
        else:
            file["actions"] = np.dtype("f4")
    return path


def _linked(path: Path, kind: str) -> Path:
    """`actions` lies somewhere else: each way that HDF5 knows."""
    other = write(path.with_name("other.hdf5"), {"secret": columns()["actions"]})
    arrays = columns()
    write(path, {("elsewhere" if key == "actions" else key): array for key, array in arrays.items()})
    with h5py.File(path, "a", libver="latest") as file:
        if kind == "external link":
            file["actions"] = h5py.ExternalLink(str(other), "/secret")
        elif kind == "dangling external link":
            file["actions"] = h5py.ExternalLink(str(path.with_name("absent.hdf5")), "/secret")
        elif kind == "soft link":
            file["actions"] = h5py.SoftLink("/elsewhere")
        elif kind == "dangling soft link":
            file["actions"] = h5py.SoftLink("/nowhere")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((ROWS, 2), "f4")
            layout[:] = h5py.VirtualSource(str(other), "secret", shape=(ROWS, 2))
            file.create_virtual_dataset("actions", layout)
        else:
            raw = path.with_name("raw.bin")
            raw.write_bytes(bytes(ROWS * 8))
            file.create_dataset("actions", (ROWS, 2), "f4", external=[(str(raw), 0, ROWS * 8)])
    return path


def _shaped(path: Path, kind: str) -> Path:
    """Declares more than it stores."""
    write(path, {key: array for key, array in columns().items() if key != "actions"})
    with h5py.File(path, "a") as file:
        if kind == "shape bomb":
            file.create_dataset("actions", (2**40, 2), "f4", chunks=(1024, 2))
        elif kind == "contiguous bomb":
            file.create_dataset("actions", (2**40, 2), "f4")
        elif kind == "chunk bomb":
            column = file.create_dataset("actions", (ROWS, 2), "f4", chunks=(2**28, 2), maxshape=(None, 2))
            del column
        elif kind == "gzip bomb":
            rows = 2**21
            column = file.create_dataset("actions", (16 * rows, 8), "f4", chunks=(rows, 8), compression="gzip")
            block = zlib.compress(bytes(rows * 32), 1)
            for i in range(16):
                column.id.write_direct_chunk((i * rows, 0), block)
        elif kind == "never written":
            file.create_dataset("actions", (ROWS, 2), "f4")
        elif kind == "part written":
            file.create_dataset("actions", (ROWS, 2), "f4", chunks=(4, 2))[:8] = 0
        elif kind == "unknown filter":
            column = file.create_dataset(
                "actions", (ROWS, 2), "f4", chunks=(ROWS, 2), compression=32768, allow_unknown_filter=True
            )
            column.id.write_direct_chunk((0, 0), bytes(64))
        else:
            file.create_dataset("actions", data=columns()["actions"], scaleoffset=3)
    return path


def _structures() -> list[Bad]:
    found = [
        Bad(f"actions {kind}", lambda path, kind=kind: _odd_types(path, kind), "actions", words)
        for kind, words in (
            ("vlen", "wanted are plain numbers"),
            ("vlen string", "wanted are plain numbers"),
            ("reference", "wanted are plain numbers"),
            ("enum", "wanted are plain numbers"),
            ("group", "is a group"),
            ("named type", "is a group or a type"),
        )
    ]
    found += [
        Bad(f"actions {kind}", lambda path, kind=kind: _linked(path, kind), "actions", words)
        for kind, words in (
            ("external link", "is a link to another place"),
            ("dangling external link", "is a link to another place"),
            ("soft link", "is a link to another place"),
            ("dangling soft link", "is a link to another place"),
            ("virtual", "lies in another file"),
            ("external storage", "lies in another file"),
        )
    ]
    found += [
        Bad(f"actions {kind}", lambda path, kind=kind: _shaped(path, kind), "actions", words, count=count)
        for kind, words, count in (
            ("shape bomb", "declares", 1),
            ("contiguous bomb", "declares", 1),
            ("chunk bomb", "declares", 1),
            ("gzip bomb", "declares", 1),
            ("never written", "never written", 1),
            ("part written", "1 of its blocks were never written", 1),
            ("unknown filter", "is packed by a filter other", 1),
            ("scaleoffset filter", "is packed by a filter other", 1),
        )
    ]
    return found


def _cut(path: Path, base: Callable[[Path], Path], length: float) -> Path:
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


def inside(path: Path, key: str) -> int:
    """Place of the first packed byte of a column's values."""
    with h5py.File(path, "r") as file:
        return file[key].id.get_chunk_info(0).byte_offset


def _plain(path: Path) -> Path:
    return write(path, columns())


def _damaged() -> list[Bad]:
    found = []
    for writer, base in (("ours", saved), ("theirs", _plain)):
        for length, words in (
            (0, "is empty"),
            (1, "is not an HDF5"),
            (0.25, "damaged"),
            (0.5, "damaged"),
            (-1, "damaged"),
        ):
            make = lambda path, base=base, length=length: _cut(path, base, length)  # noqa: E731
            found += [Bad(f"{writer}, {length} bytes kept", make, "file", words)]
        for byte, words in ((0, "is not an HDF5 file"), (7, "is not an HDF5 file"), (8, "")):
            make = lambda path, base=base, byte=byte: flipped(base(path), byte, 4)  # noqa: E731
            found += [Bad(f"{writer}, flip in byte {byte}", make, "file", words)]
    for byte in (9, 20, 30, 36, 44):  # the rest of the superblock, its checksum last
        found += [Bad(f"ours, flip in byte {byte}", lambda p, b=byte: flipped(saved(p), b, 0), "file", "damaged")]
    for key in columns():
        make = lambda path, key=key: flipped(saved(path), inside(path, key) + 3, 2)  # noqa: E731
        found += [Bad(f"{key} flip in the values", make, key, "cannot be read")]
    return found


def _bytes(content: bytes) -> Callable[[Path], Path]:
    def make(path):
        path.write_bytes(content)
        return path

    return make


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _dangling(path: Path) -> Path:
    path.symlink_to(path.with_name("absent"))
    return path


def _many_names(path: Path, names: int = 10_000) -> Path:
    write(path, columns(), libver="latest")
    with h5py.File(path, "a", libver="latest") as file:
        links, target = file.id.links, file["rewards"].id
        for i in range(names):
            links.create_hard(b"%d" % i, file.id, b"rewards")
        assert target.valid
    return path


def _episodes_of_one(path: Path) -> Path:
    arrays = columns()
    del arrays["next_observations"]
    return write(path, arrays | {"terminals": np.zeros(ROWS, bool), "timeouts": np.ones(ROWS, bool)})


def _final_without_timeouts(path: Path) -> Path:
    arrays = compact()
    del arrays["timeouts"]
    return write(path, arrays)


def _files() -> list[Bad]:
    return [
        Bad("absent", lambda path: path, "file", "is not there"),
        Bad("folder", _folder, "file", "is a folder"),
        Bad("fifo", _fifo, "file", "is not a regular file"),
        Bad("device", lambda path: Path("/dev/zero"), "file", "is not a regular file"),
        Bad("dangling link", _dangling, "file", "is not there"),
        Bad("text", _bytes(b"observations,actions\n1,2\n"), "file", "is not an HDF5 file"),
        Bad("npz", _bytes(b"PK\x03\x04" + bytes(400)), "file", "is not an HDF5 file"),
        Bad("pickle", _bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR."), "file", "is not an HDF5 file"),
        Bad("zeros", _bytes(bytes(4096)), "file", "is not an HDF5 file"),
        Bad("signature only", _bytes(b"\x89HDF\r\n\x1a\n"), "file", ""),
        Bad("signature and noise", _bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8), "file", ""),
        Bad("10,000 names", _many_names, "file", "holds 10,006 names", count=10_006),
        Bad("episodes of one row", _episodes_of_one, "next_observations", "nothing is left", count=ROWS),
        Bad("no timeouts", _final_without_timeouts, "final_observations", "needs `timeouts`"),
    ]


BAD_FILES = [*_contents(), *_structures(), *_damaged(), *_files()]


def _with_userblock(path: Path) -> Path:
    return write_file(path, userblock_size=512)


def write_file(path: Path, **options) -> Path:
    with h5py.File(path, "w", **options) as file:
        for key, array in columns().items():
            file[key] = array
    return path


def _with_groups(path: Path) -> Path:
    """What D4RL's v2 files carry beside the rows; nothing of it is opened."""
    _plain(path)
    with h5py.File(path, "a") as file:
        file["metadata/algorithm"] = "SAC"
        file["infos/qpos"] = np.zeros((ROWS, 9))
        file["infos/elsewhere"] = h5py.ExternalLink("/dev/zero", "/")
    return path


def _cast(**types) -> Callable[[Path], Path]:
    def make(path):
        arrays = columns()
        return write(path, arrays | {key: arrays[key].astype(dtype) for key, dtype in types.items()})

    return make


def _symlink(path: Path) -> Path:
    path.symlink_to(_plain(path.with_name("target.hdf5")))
    return path


GOOD_FILES = {
    "plain": _plain,
    "ours": saved,
    "compact": lambda path: write(path, compact()),
    "gzip": lambda path: write(path, columns(), compression="gzip", shuffle=True),
    "lzf": lambda path: write(path, columns(), compression="lzf", fletcher32=True),
    "latest format": lambda path: write(path, columns(), libver="latest"),
    "creation order": lambda path: write_file(path, libver="latest", track_order=True),
    "user block": _with_userblock,
    "infos and metadata": _with_groups,
    "float64, byte flags": _cast(observations="f8", actions="f8", rewards="f8", terminals="u1", timeouts="i1"),
    "big-endian, float flags": _cast(observations=">f4", rewards=">f8", terminals="f4", timeouts="f8"),
    "integers, float16": _cast(rewards="i4", terminals="i8", actions="f2"),
    "symbolic link": _symlink,
}
