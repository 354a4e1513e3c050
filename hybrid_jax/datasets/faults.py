"""What can be wrong with a data set, in words that name the key, the first bad row and the count."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """One thing wrong with one key."""

    key: str
    row: int | None  # the first bad row; None where the fault is not one of rows
    count: int  # how many rows, or keys, are bad
    sentence: str  # what is wrong and the cure, without the key


class Report(NamedTuple):
    """What a check found; no value was changed."""

    errors: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    where: str  # the file, or what else the data came from


class DatasetError(ValueError):
    """A data set that cannot be used; the message lists all its faults, not its warnings."""

    def __init__(self, where: str, faults: Sequence[Fault], warnings: Sequence[Fault] = ()):
        self.where, self.faults, self.warnings = where, tuple(faults), tuple(warnings)
        lines = sentences(faults)
        super().__init__(
            f"{where}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{where}: {len(lines)} faults", *lines])
        )


def sentences(faults: Iterable[Fault]) -> tuple[str, ...]:
    """Each fault as `key: sentence`."""
    return tuple(f"{fault.key}: {fault.sentence}" for fault in faults)


def at_rows(key: str, bad: Any, what: str, cure: str = "") -> list[Fault]:
    """A fault for the marked rows, bad [D] bool; none if no row is marked."""
    count = int(bad.sum())
    if count == 0:
        return []
    first = int(bad.argmax())
    return [Fault(key, first, count, f"{count:,} of {len(bad):,} rows {what}, the first is row {first}{cure}")]
