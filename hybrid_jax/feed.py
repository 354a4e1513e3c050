"""Real rows on their way from the journal into the compiled step: chunks of one shape with a count.

A row gets here by its number in the journal and in no other way, so nothing is learned that is not on disk.
"""

from typing import NamedTuple

import numpy as np

from hybrid_jax.real import record
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.record import Flag
from hybrid_jax.types import Spec, Transition

SKIPPED = Flag.GAP | Flag.FROZEN
"""Rows with these flags stay in the journal and are not learned: they are no true steps of `dt` seconds."""


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
        self._follower, self._spec, self._size = follower, spec, size
        self.rows = self.skipped = 0  # so far, of the steps taken

    @property
    def watermark(self) -> int:
        """All records below this number have been taken."""
        return self._follower.watermark

    def take(self, watermark: int) -> Chunk:
        """The records up to the journal's `watermark`, but no more of them than fit into a chunk."""
        taken = self._follower.take(min(watermark, self.watermark + self._size))
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
        column = np.zeros((self._size, *shape), np.float32)
        if values:
            column[: len(values)] = values
        return column
