"""The .npz files that a loader must refuse, and a few odd ones that it must take."""

import io
import os
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.bad_files import (
    ROWS,
    Bad,
    columns,
    combinations,
    compact,
    contents,
    cut,
    flipped,
    no_files,
)

MARK = os.path.join(tempfile.gettempdir(), f"hybrid_jax_mark_{os.getpid()}")  # a folder that code from a file makes


def write(path: Path, arrays: dict[str, np.ndarray], save=np.savez) -> Path:
    """As numpy writes."""
    with path.open("wb") as file:
        save(file, **arrays)
    return path


def packed(path: Path) -> Path:
    return write(path, columns(), np.savez_compressed)


def plain(path: Path) -> Path:
    return write(path, columns())


class Member(NamedTuple):
    """A member as it shall stand in a zip made by hand; None: as is right."""

    name: bytes
    data: bytes  # as stored
    method: int = 0
    size: int | None = None  # of what is unpacked
    crc: int | None = None
    bits: int = 0
    mode: int = 0  # of the file, as Unix keeps it
    local_name: bytes | None = None
    offset: int | None = None
    stored: int | None = None  # length of `data` as told


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def members(**others: Member | None) -> list[Member]:
    """The good columns, some of them replaced; None leaves one out."""
    good = {key: Member(f"{key}.npy".encode(), npy(array)) for key, array in columns().items()}
    return [member for member in (good | others).values() if member is not None]


def zipped(path: Path, parts: list[Member], prefix=b"", comment=b"", count=None) -> Path:
    """A zip made by hand."""
    body, directory = prefix, b""
    for part in parts:
        size = len(part.data) if part.size is None else part.size
        crc = zlib.crc32(part.data) if part.crc is None else part.crc
        stored = len(part.data) if part.stored is None else part.stored
        name = part.name if part.local_name is None else part.local_name
        shared = struct.pack("<5H3L", 20, part.bits, part.method, 0, 33, crc, stored, size)
        offset = len(body) if part.offset is None else part.offset
        body += b"PK\x03\x04" + shared + struct.pack("<2H", len(name), 0) + name + part.data
        ends = struct.pack("<5H2L", len(part.name), 0, 0, 0, 0, part.mode << 16, offset)
        directory += b"PK\x01\x02" + struct.pack("<H", 0x314) + shared + ends + part.name
    count = len(parts) if count is None else count
    end = struct.pack("<4H2LH", 0, 0, count, count, len(directory), len(body), len(comment))
    path.write_bytes(body + directory + b"PK\x05\x06" + end + comment)
    return path


def head(text: str, version: int = 1, length: int | None = None) -> bytes:
    """The head of an .npy file."""
    length = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 if version == 1 else 4, "little") + text.encode()


class _Bomb:
    def __reduce__(self):
        return os.mkdir, (MARK,)


def objects() -> bytes:
    """An array of objects, which is a pickle: unpacking it leaves a mark."""
    file = io.BytesIO()
    np.save(file, np.array([_Bomb()] * ROWS, object), allow_pickle=True)
    return file.getvalue()


def _nested() -> bytes:
    file = io.BytesIO()
    np.savez(file, **columns())
    return file.getvalue()


def deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


def _zeros(blocks: int) -> bytes:
    """`blocks` MiB of zeros, packed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * blocks + packer.flush()


def _large(key: str, mebibytes: int) -> Member:
    """An array of zeros, good in itself."""
    rows = (mebibytes * 2**20 - 128) // 32
    start = head(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 8), }}".ljust(117) + "\n")
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = first.compress(start + bytes(2**20 - len(start))) + first.flush(zlib.Z_FULL_FLUSH)
    return Member(f"{key}.npy".encode(), data + _zeros(mebibytes - 1), 8, mebibytes * 2**20, 0)


def _member_faults() -> list[Bad]:
    """One column's member is not what it should be."""
    data = npy(columns()["actions"])
    right = "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 2), }\n"
    values = columns()["actions"].tobytes()
    cases = {
        "objects": (objects(), "has type |O, wanted are plain numbers"),
        "pickle": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "is not an .npy array"),
        "nested npz": (_nested(), "is not an .npy array"),
        "npy in capitals": (data.replace(b"NUMPY", b"numpy"), "is not an .npy array"),
        "empty member": (b"", "is not an .npy array"),
        "half a magic": (b"\x93NUM", "is not an .npy array"),
        "version 9": (b"\x93NUMPY\x09\x00" + data[8:], "is not an .npy array"),
        "head cut": (data[:40], "head is unknown"),
        "one value short": (data[:-4], "declares 224 bytes and holds 220"),
        "bytes behind": (data + b"\0", "declares 224 bytes and holds 225"),
        "shape bomb": (head(right.replace("12", str(2**40))) + values, "declares 8,796,093,022,2"),
        "overflow bomb": (head(right.replace("12, 2", f"{2**33}, {2**33}, 0, 1")) + values, "declares"),
        "head bomb": (head(right, 2, 2**31) + values, "head has 2,147,483,648 bytes"),
        "long head": (head(right.ljust(9000)) + values, "head has 9,000 bytes"),
        "code in the head": (head(f"__import__('os').mkdir('{MARK}')") + values, "head is unknown"),
        "deep head": (head("(" * 4000) + values, "head is unknown"),
        "slow head": (head("{'shape': (" + "1" * 4000) + values, "head is unknown"),
        "long numbers": (head(right.replace("12", "9" * 1000)) + values, "head is unknown"),
        "many axes": (head(right.replace("12", "1, " * 40 + "12")) + values, "has 42 axes"),
        "negative rows": (head(right.replace("12", "-12")) + values, "head is unknown"),
        "head without shape": (head("{'descr': '<f4', 'fortran_order': False, }") + values, "head is unknown"),
        "head with two types": (head(right.replace("}", "'descr': '<f8', }")) + values, "head is unknown"),
        "head with more": (head(right.replace("}", "'more': 1, }")) + values, "head is unknown"),
        "type of no width": (head(right.replace("<f4", "<f")) + values, "has type <f, wanted"),
        "long double": (head(right.replace("<f4", "<f16")) + values, "has type <f16, wanted"),
        "dates": (head(right.replace("<f4", "<M8[s]")) + values, "has type <M8[s], wanted"),
        "text": (npy(columns()["actions"].astype("U4")), "has type <U4, wanted"),
    }
    found = [(name, Member(b"actions.npy", content), words) for name, (content, words) in cases.items()]
    make = lambda **changes: Member(b"actions.npy", data, **changes)  # noqa: E731
    longer = head(right.replace("12", "13")) + values  # a row less than it says, and everything else agrees
    found += [
        (
            "ends early",
            Member(b"actions.npy", deflate(longer), 8, len(longer) + 8, zlib.crc32(longer)),
            "it ends early",
        ),
        ("wrong checksum", make(crc=1), "cannot be read (Bad CRC-32"),
        ("symbolic link", make(mode=stat.S_IFLNK | 0o777), "is a link or a device"),
        ("device", make(mode=stat.S_IFCHR | 0o666), "is a link or a device"),
        ("fifo", make(mode=stat.S_IFIFO | 0o666), "is a link or a device"),
        ("encrypted", make(bits=1), "is encrypted"),
        ("strongly encrypted", make(bits=0x40), "is encrypted"),
        ("a patch", make(bits=0x20), "cannot be read"),
        ("bzip2", make(method=12), "packed by a method"),
        ("lzma", make(method=14), "packed by a method"),
        ("method 99", make(method=99), "packed by a method"),
        ("stored, said to be packed", make(method=8), "cannot be read"),
        ("another name inside", make(local_name=b"rewards.npy"), "head and the directory differ"),
        ("two sizes", make(size=10), "two sizes"),
        ("shares bytes", make(stored=len(data) + 300, size=len(data) + 300), "shares bytes"),
        ("ratio bomb", Member(b"actions.npy", _zeros(300), 8, 300 * 2**20), "declares 314,572,800 bytes and stores"),
        ("size said too small", Member(b"actions.npy", _zeros(300), 8, 224), "cannot be read"),
        (
            "size said too large",
            Member(b"actions.npy", deflate(data), 8, 10**6, zlib.crc32(data)),
            "declares 224 bytes",
        ),
        ("noise", Member(b"actions.npy", bytes(range(250)), 8, 224), "cannot be read"),
    ]
    return [
        Bad(f"actions {name}", lambda path, member=member: zipped(path, members(actions=member)), "actions", words)
        for name, member, words in found
    ]


def _name_faults() -> list[Bad]:
    """A member whose name leads elsewhere, or that is there twice."""
    data, found = npy(columns()["actions"]), []
    for name in (
        "../actions",
        "/etc/actions",
        "x/../../actions",
        "..",
        "C:actions",
        "C:\\actions",
        "..\\actions",
        "a\0b",
        "a\nb",
    ):
        member = Member(f"{name}.npy".encode(), data) if name != ".." else Member(b"..", data)
        make = lambda path, member=member: zipped(path, [*members(), member])  # noqa: E731
        shown = "".join(letter if letter.isprintable() else "?" for letter in name)
        found.append(Bad(f"name {name!r}", make, shown, "a name that leads to another place"))
    twice = lambda path: zipped(path, [*members(), Member(b"actions.npy", data)])  # noqa: E731
    inner = lambda path: zipped(path, [Member(b"inner.npz", _nested())])  # noqa: E731
    same = lambda path: zipped(path, [*members(), Member(b"more.npy", data, offset=0)])  # noqa: E731
    return [
        *found,
        Bad("actions twice", twice, "actions", "is there 2 times", count=2),
        Bad("npz in an npz", inner, "observations", "is missing; the file holds inner.npz"),
        Bad("one member under two names", same, "observations", "shares bytes with another"),
    ]


def _archive_faults() -> list[Bad]:
    def numbered(path, count, told=None):
        return zipped(path, [Member(b"%d" % i, b"") for i in range(count)], count=told)

    def large(path, *keys):
        others = {key: _large(key, 100) for key in keys}
        return zipped(path, members(**others))

    def behind(path):
        packed(path)
        path.write_bytes(path.read_bytes() + b"more")
        return path

    def without_directory(path):
        path.write_bytes(b"".join(plain(path).read_bytes().partition(b"PK\x01\x02")[:1]))
        return path

    lost = members(actions=Member(b"actions.npy", npy(columns()["actions"]), offset=10**6))
    return [
        Bad("a member behind the end", lambda p: zipped(p, lost), "file", "is damaged"),
        Bad("no members", lambda p: zipped(p, []), "file", "is not a .npz file"),
        Bad("no members, bytes before", lambda p: zipped(p, [], prefix=b"PK\x03\x04"), "file", "is an empty zip"),
        Bad("bytes before", lambda p: zipped(p, members(), prefix=b"#!/bin/sh\n"), "file", "is not a .npz file"),
        Bad("bytes before, well hidden", lambda p: zipped(p, members(), b"PK\3\4xx"), "file", "before its first"),
        Bad("comment", lambda p: zipped(p, members(), comment=b"hello"), "file", "no zip directory at its end"),
        Bad("bytes behind", behind, "file", "no zip directory at its end"),
        Bad("no directory", without_directory, "file", "no zip directory at its end"),
        Bad("3,000 names", lambda p: numbered(p, 3_000), "file", "holds 3,000 names"),
        Bad("6,000 names, 6 told", lambda p: numbered(p, 6_000, 6), "file", "holds 6 names in"),
        Bad("one name not told", lambda p: zipped(p, members(), count=5), "file", "another number of names"),
        Bad("two bombs", lambda p: large(p, "observations", "next_observations"), "file", "declares"),
    ]


def _damaged() -> list[Bad]:
    found = []
    for writer, base in (("plain", plain), ("packed", packed)):
        for length, words in (
            (0, "is empty"),
            (1, "is not"),
            (0.25, "cut short"),
            (0.5, "cut short"),
            (-1, "cut short"),
        ):
            make = lambda path, base=base, length=length: cut(path, base, length)  # noqa: E731
            found += [Bad(f"{writer}, {length} bytes kept", make, "file", words)]
        for key in columns():
            make = lambda path, key=key, base=base: flipped(base(path), values_of(path, key), 3)  # noqa: E731
            found += [Bad(f"{writer}, {key} flip in the values", make, key, "cannot be read")]
    for byte, words in ((0, "is not a .npz"), (3, "is not a .npz")):
        found += [Bad(f"flip in byte {byte}", lambda p, b=byte: flipped(plain(p), b, 2), "file", words)]
    for back in (22, 12, 10, 6, 2):  # of the directory's end: signature, entries, size, place, comment
        make = lambda path, back=back: flipped(plain(path), len(path.read_bytes()) - back, 0)  # noqa: E731
        found += [Bad(f"flip {back} bytes before the end", make, "file", "")]
    return found


def values_of(path: Path, key: str) -> int:
    """Place of a byte well inside a member."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
        return member.header_offset + 60 + member.compress_size * 2 // 3


BAD_FILES = [
    *contents(write),
    *combinations(write),
    *_member_faults(),
    *_name_faults(),
    *_archive_faults(),
    *_damaged(),
    *no_files("is not a .npz file", "zip head"),
]


class _Pipe(io.BytesIO):
    """What cannot go back: sizes follow behind each member."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation


def _streamed(path: Path) -> Path:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in columns().items():
            archive.writestr(f"{key}.npy", npy(array))
    path.write_bytes(pipe.getvalue())
    return path


def _cast(**types) -> Callable[[Path], Path]:
    def make(path):
        arrays = columns()
        return write(path, arrays | {key: arrays[key].astype(dtype) for key, dtype in types.items()})

    return make


def _with_infos(path: Path) -> Path:
    """What a D4RL file brings along when its keys become names; nothing of it is opened."""
    others = [Member(b"infos/qpos.npy", objects()), Member(b"metadata/algorithm.npy", objects())]
    return zipped(path, [*members(), *others])


def _version_2(path: Path) -> Path:
    text = "{'shape': (12,), 'fortran_order': False, 'descr': '<f4'}"  # another order, another end
    return zipped(path, members(rewards=Member(b"rewards.npy", head(text, 2) + columns()["rewards"].tobytes())))


def _symlink(path: Path) -> Path:
    path.symlink_to(plain(path.with_name("target.npz")))
    return path


GOOD_FILES = {
    "plain": plain,
    "packed": packed,
    "compact": lambda path: write(path, compact()),
    "columns first": lambda path: write(path, {key: np.asfortranarray(array) for key, array in columns().items()}),
    "float64, byte flags": _cast(observations="f8", actions="f8", rewards="f8", terminals="u1", timeouts="i1"),
    "big-endian, float flags": _cast(observations=">f4", rewards=">f8", terminals="f4", timeouts="f8"),
    "integers, float16": _cast(rewards="i4", terminals="i8", actions="f2"),
    "streamed": _streamed,
    "by hand": lambda path: zipped(path, members()),
    "infos and metadata": _with_infos,
    "second version": _version_2,
    "symbolic link": _symlink,
}
