"""The fixed control rate: when a step is due, and which steps came late."""

import time

from hybrid_jax.real.record import Flag

LATE_GAP = 3  # periods after which an answer, or an observation, no longer belongs to its step


class Clock:
    """Times the steps of one robot; without a rate every step is due at once and none is late."""

    def __init__(self, rate: float):
        """rate: [Hz]; 0: as fast as it goes."""
        self._period = 1.0 / rate if rate else 0.0
        self._due, self._sent = 0.0, 0.0
        self.interval: float | None = None  # [s] between the last two commands; None: one of an episode alone
        self._measured: float | None = None  # when the last observation came; None: an episode begins

    def begin(self) -> None:
        """An episode begins, now."""
        self._due, self._measured = time.monotonic(), None

    def go_on(self) -> None:
        """The next step is due now: it was ordered after a pause."""
        self._due = time.monotonic()

    def wait(self) -> float:
        """[s] until the next step is due."""
        return max(0.0, self._due - time.monotonic())

    def judge(self, begun: float, ended: float) -> Flag:
        """What must be known of a step that was sent and answered at these times [s]; sets the next one's.

        LATE: sent more than half a period after it was due, or answered more than a period after. GAP: the answer
        took, or the pause since the observation behind it lasted, more than `LATE_GAP` periods. Lost periods are
        not made up for.
        """
        behind, taken = begun - self._due, ended - begun
        self.interval = None if self._measured is None else begun - self._sent
        self._sent = begun
        pause = 0.0 if self._measured is None else begun - self._measured
        self._measured, self._due = ended, self._due + self._period
        if not self._period:
            return Flag(0)
        if ended - self._due > self._period:
            self._due = ended
        flags = Flag(0)
        if behind > self._period / 2 or behind + taken > self._period:
            flags |= Flag.LATE
        if max(taken, pause) > LATE_GAP * self._period:
            flags |= Flag.LATE | Flag.GAP
        return flags
