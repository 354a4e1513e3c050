"""The HDF5 files that a loader must refuse, and a few odd ones that it must take."""

import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from hybrid_jax.datasets import hdf5
from tests.bad_files import (
    FOREIGN,
    ROWS,
    Bad,
    columns,
    combinations,
    compact,
    contents,
    cut,
    flipped,
    no_files,
    of_bytes,
)


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


def inside(path: Path, key: str) -> int:
    """Place of the first packed byte of a column's values."""
    with h5py.File(path, "r") as file:
        return file[key].id.get_chunk_info(0).byte_offset


def plain(path: Path) -> Path:
    return write(path, columns())


def _damaged() -> list[Bad]:
    found = []
    for writer, base in (("ours", saved), ("theirs", plain)):
        for length, words in (
            (0, "is empty"),
            (1, "is not an HDF5"),
            (0.25, "damaged"),
            (0.5, "damaged"),
            (-1, "damaged"),
        ):
            make = lambda path, base=base, length=length: cut(path, base, length)  # noqa: E731
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


def _many_names(path: Path, names: int = 10_000) -> Path:
    write(path, columns(), libver="latest")
    with h5py.File(path, "a", libver="latest") as file:
        links, target = file.id.links, file["rewards"].id
        for i in range(names):
            links.create_hard(b"%d" % i, file.id, b"rewards")
        assert target.valid
    return path


def _nested(path: Path, depth: int = 10_000) -> Path:
    """`observations` is a chain of groups, one in the other."""
    write(path, {key: array for key, array in columns().items() if key != "observations"})
    with h5py.File(path, "a", libver="latest") as file:
        group = file.create_group("observations")
        for _ in range(depth):
            group = group.create_group("g")
    return path


def _several_bombs(path: Path) -> Path:
    """Each column alone is below what is looked at, all of them together are not."""
    rows = 2**21
    block = zlib.compress(bytes(rows * 32), 1)
    with h5py.File(path, "w") as file:
        for key in ("observations", "next_observations"):
            column = file.create_dataset(key, (rows, 8), "f4", chunks=(rows, 8), compression="gzip")
            column.id.write_direct_chunk((0, 0), block)
    return path


def _files() -> list[Bad]:
    empty = lambda path: write(path, columns() | {"rewards": h5py.Empty("f4")})  # noqa: E731
    return [
        *no_files("is not an HDF5 file", "HDF5 head"),
        Bad("signature only", of_bytes(b"\x89HDF\r\n\x1a\n"), "file", ""),
        Bad("signature and noise", of_bytes(FOREIGN["HDF5 head"]), "file", ""),
        Bad("10,000 names", _many_names, "file", "holds 10,006 names", count=10_006),
        Bad("10,000 groups deep", _nested, "observations", "is a group"),
        Bad("two bombs", _several_bombs, "file", "declares"),
        Bad("rewards no values", empty, "rewards", "has no values"),
    ]


BAD_FILES = [*contents(write), *combinations(write), *_structures(), *_damaged(), *_files()]


def _with_userblock(path: Path) -> Path:
    return write_file(path, userblock_size=512)


def write_file(path: Path, **options) -> Path:
    with h5py.File(path, "w", **options) as file:
        for key, array in columns().items():
            file[key] = array
    return path


def _with_groups(path: Path) -> Path:
    """What D4RL's v2 files carry beside the rows; nothing of it is opened."""
    plain(path)
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
    path.symlink_to(plain(path.with_name("target.hdf5")))
    return path


GOOD_FILES = {
    "plain": plain,
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
