"""What is known of a robot: its state and why, what it did, its faults; for people in `status.json`."""

import json
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.real.record import COUNTED
from hybrid_jax.real.settings import State

_EVERY = 1.0  # [s] between two writings while nothing changes
_RECENT = 1000  # steps whose times are kept
_LATE_SHARE, _LATE_ROWS = 0.01, 200  # share of late steps that is told, of at least so many


class Status:
    """Kept by the supervisor under its lock."""

    def __init__(self, path: Path, say: Callable[[str], None]):
        """path: of status.json; say: told in words what was not ordered."""
        self._path, self._say = path, say
        self.state, self.reason, self._since = State.STARTING, "not started", time.time()
        self.watermark = 0  # records on disk: all numbers below it
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))  # of its steps
        self.acted: deque[float] = deque(maxlen=_RECENT)  # [s] from observation to command, of the last steps
        self.intervals: deque[float] = deque(maxlen=_RECENT)  # [s] between commands
        self._totals = dict.fromkeys(COUNTED, 0)  # of these, those of the process that runs now
        self._down: float | None = None  # since when no row has come, after a fault
        self._told_late, self._written = False, 0.0

    def change(self, state: State, reason: str, quiet: bool = False) -> None:
        """Takes note of a new state, but none follows STOPPED; quiet: one that was ordered need not be said."""
        if self.state == State.STOPPED or (state, reason) == (self.state, self.reason):
            return
        self.state, self.reason, self._since = state, reason, time.time()
        if not quiet:
            self._say(f"{state.value}: {reason}")
        self._write()

    def count(self, kind: str, reason: str) -> str:
        """One more fault of this kind; returns the reason."""
        self.faults[kind] += 1
        self._down = self._down or time.monotonic()
        self._say(f"{kind}: {reason}")
        return reason

    def begin_life(self) -> None:
        """A new process counts from zero."""
        self._totals = dict.fromkeys(self._totals, 0)

    def add_up(self, message: dict[str, Any]) -> int:
        """Adds a report's totals to those of the processes before; returns how many rows are new."""
        self.watermark = message.get("next", self.watermark)
        totals = message.get("totals", self._totals)
        new = totals["rows"] - self._totals["rows"]
        if new <= 0:
            return 0
        self.counts.update({name: totals[name] - self._totals[name] for name in COUNTED})
        self._totals = totals
        for times, name in ((self.acted, "acted"), (self.intervals, "interval")):
            if message.get(name) is not None:
                times.append(message[name])
        if self._down is not None:
            self._say(f"back after {time.monotonic() - self._down:.1f} s")
            self._down = None
        rows, late = self.counts["rows"], self.counts["late"]
        if not self._told_late and rows >= _LATE_ROWS and late > _LATE_SHARE * rows:
            self._told_late = True
            self._say(f"{late} of {rows} steps were late; a lower rate, or fewer tasks beside, would help")
        return new

    def freshen(self) -> None:
        """Writes the file again if it has become old."""
        if time.monotonic() - self._written > _EVERY:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        status = {
            "state": self.state.value,
            "reason": self.reason,
            "since": self._since,
            "records": self.watermark,
            **self.counts,
            "faults": dict(self.faults),
            "down_seconds": None if self._down is None else round(time.monotonic() - self._down, 1),
            "policy_ms": _quantiles(self.acted),
            "interval_ms": _quantiles(self.intervals),
        }
        partial = self._path.with_name(self._path.name + ".partial")
        try:  # for people to look at: no wait for the disk, under a lock that others need
            partial.write_text(json.dumps(status, indent=2) + "\n")
            partial.replace(self._path)
        except OSError as error:  # a full disk stops the robot by its journal, and nothing by its status
            self._say(f"{self._path} could not be written: {error}")


def _quantiles(seconds: deque[float]) -> dict[str, float] | None:
    """Median and 99th percentile in milliseconds."""
    if not seconds:
        return None
    return {f"p{q}": round(1e3 * float(np.percentile(list(seconds), q)), 3) for q in (50, 99)}
