"""Whole episodes: of a journal's records as they come, or of an environment that is driven by hand."""

from typing import NamedTuple

import numpy as np

from hybrid_jax.real.record import Flag, Record, Transition


class Episode(NamedTuple):
    """One real episode of T steps, in numpy."""

    obs: np.ndarray  # [T + 1, O] the first observation and every successor
    actions: np.ndarray  # [T, A] as sent
    rewards: np.ndarray  # [T]
    terminated: bool  # the task ended it (a fall), not the clock
    greedy: bool = True  # the policy was judged, without exploration

    @property
    def total(self) -> float:
        """The undiscounted return."""
        return float(self.rewards.sum())


class Episodes:
    """Puts steps together; an episode that a fault broke off, or that began earlier, is left out."""

    def __init__(self) -> None:
        self._open: list[Transition] = []

    def add(self, record: Record) -> Episode | None:
        """Takes the next record; returns the episode that it ends."""
        if not isinstance(record, Transition):
            self._open = []
            return None
        if self._open and self._open[-1].episode != record.episode:
            self._open = []
        if record.step != len(self._open):
            return None
        self._open.append(record)
        if not record.flags & (Flag.TERMINATED | Flag.TRUNCATED):
            return None
        steps, self._open = self._open, []
        return Episode(
            np.stack([steps[0].obs, *(step.next_obs for step in steps)]),
            np.stack([step.sent for step in steps]),
            np.array([step.reward for step in steps]),
            bool(record.flags & Flag.TERMINATED),
            all(step.flags & Flag.GREEDY for step in steps),
        )
