"""The members of a .zip file, each looked at before any is unpacked; nothing is ever extracted to a folder.

A zip says most things twice, at the member and in the directory at its end. Here both must say the same, and no two
members may share bytes, which is how small archives unpack to huge ones.
"""

import re
import stat
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from hybrid_jax.datasets import opening
from hybrid_jax.datasets.faults import DatasetError, Fault
from hybrid_jax.datasets.opening import first_line

SIGNATURE = b"PK\x03\x04"
MAX_DIRECTORY = 2**18  # [bytes]
_LOCAL = struct.Struct("<4s5H3L2H")  # before each member; ends with the lengths of its name and of its extra field
_END = struct.Struct("<4s4H2LH")  # ends with entries, size and place of the directory, length of a comment
_END_64 = struct.Struct("<4sQ2H2L4Q")  # the same for large files, in front of _LOCATOR
_LOCATOR = struct.Struct("<4sLQL")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_ERRORS = (*opening.READ_ERRORS, BadZipFile, struct.error)


@contextmanager
def opened(path: Path) -> Iterator[ZipFile]:
    """The archive, its directory known to be whole and short; raises DatasetError, also for errors inside."""
    problem = opening.unopened(path)
    if problem is None:
        try:
            with path.open("rb") as file:
                entries, problem = _directory(file, path.stat().st_size)
                if problem is None:
                    with ZipFile(file) as archive:
                        if len(archive.infolist()) != entries:
                            raise BadZipFile("its directory holds another number of names than it says")
                        yield archive
                    return
        except DatasetError:
            raise
        except _ERRORS as error:
            problem = f"is damaged, cut short or still being written ({first_line(error)})"
    raise opening.refused(path, problem)


def _directory(file: BinaryIO, size: int) -> tuple[int, str | None]:
    """How many members the directory at the end tells of, and why it must not be read."""
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return 0, "is not a .npz file, or its head is damaged"
    at = size - _END.size
    end = _read(file, _END, at)
    *_, entries, length, _, comment = end
    if end[0] != b"PK\x05\x06" or comment:
        return 0, "is damaged, cut short or still being written (no zip directory at its end)"
    locator = at - _LOCATOR.size
    if locator >= 0 and _read(file, _LOCATOR, locator)[0] == b"PK\x06\x07":
        at = locator - _END_64.size
        signature, *_, entries, length, _ = _read(file, _END_64, at)
        if signature != b"PK\x06\x06" or _read(file, _LOCATOR, locator)[2] != at:
            return 0, "is damaged (its directory for large files is not where it should be)"
    if entries > opening.MAX_NAMES or length > MAX_DIRECTORY:
        return 0, f"holds {entries:,} names in {length:,} bytes, at most {opening.MAX_NAMES:,} are read"
    return entries, None


def _read(file: BinaryIO, form: struct.Struct, place: int) -> tuple:
    file.seek(max(place, 0))
    return form.unpack(file.read(form.size))


def faults(archive: ZipFile) -> list[Fault]:
    """Everything wrong with the members as members, by name; none is unpacked."""
    members = archive.infolist()
    if not members:
        return [Fault("file", None, 1, "is an empty zip")]
    found = []
    times = Counter(member.orig_filename for member in members)
    for name in [name for name, count in times.items() if count > 1]:
        found.append(
            Fault(key_of(name), None, times[name], f"is there {times[name]} times, which one counts is unknown")
        )
    ordered = sorted(members, key=lambda member: member.header_offset)
    ends = [member.header_offset for member in ordered[1:]] + [archive.start_dir]
    if ordered[0].header_offset != 0:
        found.append(Fault("file", None, 1, "holds bytes before its first member"))
    for member, end in zip(ordered, ends, strict=True):
        problem = _unsafe(member) or _disagreement(archive, member, end)
        if problem:
            found.append(Fault(key_of(member.orig_filename), None, 1, problem))
    return found


def _unsafe(member: ZipInfo) -> str | None:
    """Why a member must not be read, from what the directory says."""
    name = member.orig_filename
    if name.startswith("/") or ".." in name.split("/") or re.search(r"[\\\0-\x1f]|^[A-Za-z]:", name):
        return "has a name that leads to another place"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, wanted is the data itself"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return "is packed by a method other than none and deflate"
    if member.compress_type == ZIP_STORED and member.compress_size != member.file_size:
        return "is damaged (two sizes for what is not packed)"
    return opening.bomb(member.file_size, member.compress_size)


def _disagreement(archive: ZipFile, member: ZipInfo, end: int) -> str | None:
    """Why what stands at the member itself is not what the directory says of it."""
    assert archive.fp is not None
    head = _read(archive.fp, _LOCAL, member.header_offset)  # pyright: ignore[reportArgumentType]
    signature, _, bits, method, *_, name_length, extra_length = head
    name = archive.fp.read(name_length)
    told = member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
    if signature != SIGNATURE or (name, bits, method) != (told, member.flag_bits, member.compress_type):
        return "is damaged (its head and the directory differ)"
    if member.header_offset + _LOCAL.size + name_length + extra_length + member.compress_size > end:
        return "shares bytes with another member"
    return None


def key_of(name: str) -> str:
    """The key that a member holds: its name without .npy."""
    return opening.printable(name.removesuffix(".npy")) or "file"
