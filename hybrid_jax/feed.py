"""Real rows on their way from the journal into the compiled step: chunks of one shape with a count.

A row gets here by its number in the journal and in no other way, so nothing is learned that is not on disk.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from hybrid_jax.real import record
from hybrid_jax.real.episodes import Episode, Episodes
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.record import SKIPPED, Flag
from hybrid_jax.real.segments import JournalError
from hybrid_jax.types import Spec, Transition


class Chunk(NamedTuple):
    """What one iteration takes in; one shape for ever, so nothing is traced again."""

    rows: Transition  # leaves [C, ...] numpy; zero beyond the count
    count: np.int32  # valid rows, the first ones
    newest_policy: int  # updates behind the policy of the last row; -1 without rows


class Feed:
    """Takes records from a journal and makes chunks of the rows among them."""

    def __init__(self, follower: Follower, spec: Spec, size: int):
        """size: rows of a chunk. Raises ValueError for less than one."""
        if size < 1:
            raise ValueError(f"a chunk of {size} rows cannot hold any; give at least 1")
        self._follower, self._spec, self.size = follower, spec, size
        self.rows = self.skipped = 0  # so far, of the steps taken
        self.finished: list[Episode] = []  # whole episodes among them, for whoever clears the list
        self._episodes = Episodes()

    @property
    def watermark(self) -> int:
        """All records below this number have been taken."""
        return self._follower.watermark

    def take(self, watermark: int) -> Chunk:
        """The records up to the journal's `watermark`, but no more of them than fit into a chunk."""
        taken = self._follower.take(min(watermark, self.watermark + self.size))
        self.finished += filter(None, map(self._episodes.add, taken))
        steps = [each for each in taken if isinstance(each, record.Transition)]
        good = [step for step in steps if not step.flags & SKIPPED]
        self.rows, self.skipped = self.rows + len(good), self.skipped + len(steps) - len(good)
        rows = Transition(
            self._column([step.obs for step in good], self._spec.obs_size),
            self._column([step.sent for step in good], self._spec.action_size),
            self._column([step.reward for step in good]),
            self._column([0.0 if step.flags & Flag.TERMINATED else 1.0 for step in good]),
            self._column([step.next_obs for step in good], self._spec.obs_size),
        )
        return Chunk(rows, np.int32(len(good)), good[-1].policy if good else -1)

    def _column(self, values: list, *shape: int) -> np.ndarray:
        column = np.zeros((self.size, *shape), np.float32)
        if values:
            column[: len(values)] = values
        return column


class Robot(Protocol):
    """What a feed needs of a robot; `real.supervisor.Supervisor` is one."""

    @property
    def watermark(self) -> int: ...  # records in its journal

    @property
    def counts(self) -> Counter[str]: ...  # of its steps, by `record.COUNTED`

    @property
    def faults(self) -> Counter[str]: ...

    def set_policy(self, params: Any, version: int) -> None: ...

    def collect(self, steps: int) -> int: ...

    def wait(self, watermark: int, timeout: float) -> int: ...


class Recorded:
    """A robot that has been: its journal is taken in again, step by step, without it."""

    def __init__(self, watermark: int):
        """watermark: records in the journal."""
        self.watermark, self.counts, self.faults = watermark, Counter(), Counter()

    def set_policy(self, params: Any, version: int) -> None:
        """What it did is done."""

    def collect(self, steps: int) -> int:
        """Raises JournalError: the recording has ended."""
        raise JournalError(f"the recording ends after {self.watermark} records; {steps} more were asked for")

    def wait(self, watermark: int, timeout: float) -> int:
        return self.watermark


@dataclass(frozen=True)
class Before:
    """How far a run was when its robot was connected."""

    rows: int = 0  # in the real store: the log's, and live ones of earlier parts of the run
    iterations: int = 0
    updates: int = 0


class Synchronous:
    """The robot does C steps, then the learner one iteration, and so on: deterministic, for science.

    What stands in the journal already is taken first, so a run that was stopped goes on, and a recorded one is
    done again, exactly as it was.
    """

    def __init__(self, robot: Robot, feed: Feed, policy_every: int, before: Before = Before()):
        """policy_every: iterations between two copies of the policy to the robot."""
        self._robot, self._feed, self._every, self._before = robot, feed, policy_every, before
        self._calls = before.iterations

    @property
    def feed(self) -> Feed:
        return self._feed

    def next(self, params: Callable[[], Any], updates: int) -> Chunk:
        """The chunk of the next iteration; params: gives the policy that explores, on the host."""
        if self._calls % self._every == 0:
            self._robot.set_policy(params(), updates)
        self._calls += 1
        while True:
            ready = self._robot.watermark - self._feed.watermark
            if ready < self._feed.size:
                self._robot.collect(self._feed.size - ready)
            chunk = self._feed.take(self._robot.watermark)
            if self._before.rows + self._feed.rows:  # nothing can be drawn from an empty store
                return chunk


class Threaded:
    """The robot goes by its own clock and the learner by its own; each takes what the other has left."""

    def __init__(self, robot: Robot, feed: Feed, policy_every: int, caps: "Caps", before: Before = Before()):
        """policy_every: iterations between two copies of the policy to the robot."""
        self._robot, self._feed, self._every, self._before, self._caps = robot, feed, policy_every, before, caps
        self._calls = before.iterations
        self._since = before.updates  # updates at the last new row

    @property
    def feed(self) -> Feed:
        return self._feed

    def next(self, params: Callable[[], Any], updates: int) -> Chunk:
        """The rows that came since; waits only where a cap says that learning must not run ahead.

        Raises RobotStopped where it would wait for a robot that stands still for good.
        """
        if self._calls % self._every == 0:
            self._robot.set_policy(params(), updates)
        self._calls += 1
        while True:
            have = self._before.rows + self._feed.rows
            wanted = 0 if have else self._feed.size  # the first draws shall have a chunk to choose from
            if have and self._caps.exceeded(updates, updates - self._since, have):
                wanted = 1
            watermark = self._robot.watermark
            while watermark < self._feed.watermark + wanted:
                watermark = self._robot.wait(self._feed.watermark + wanted, timeout=1.0)
            chunk = self._feed.take(watermark)
            if chunk.count:
                self._since = updates
            if chunk.count or (have and not wanted):  # a fault or a skipped step is not what was waited for
                return chunk


@dataclass(frozen=True)
class Caps:
    """How far learning may run ahead of the real rows."""

    real_draws: int  # real rows drawn in one update
    max_reuse: float | None = None  # draws per real row, over the whole run
    max_updates_without_real: int | None = None

    def exceeded(self, updates: int, without: int, rows: int) -> bool:
        """Whether learning must wait for the next real row.

        updates: done; without: of these, since the newest real row; rows: real ones that were ever learned from.
        """
        if self.max_updates_without_real is not None and without > self.max_updates_without_real:
            return True
        return self.max_reuse is not None and updates * self.real_draws > self.max_reuse * rows
