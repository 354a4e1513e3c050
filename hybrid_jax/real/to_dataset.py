"""A journal as a data set in D4RL's layout: the rows that were executed, with episodes told apart."""

from pathlib import Path

import numpy as np

from hybrid_jax.datasets.hdf5 import Dataset
from hybrid_jax.real import segments
from hybrid_jax.real.record import SKIPPED, Flag, Transition
from hybrid_jax.real.segments import JournalError


def to_dataset(folder: Path) -> Dataset:
    """All steps of a journal that may be learned; actions are those that the robot was sent.

    An episode that a fault, a pause or a skipped step breaks off ends with a timeout, never with a terminal.
    Raises JournalError for a journal without a step.
    """
    steps: list[Transition] = []
    timeouts: list[bool] = []
    for record in segments.read(folder):
        if not isinstance(record, Transition) or record.flags & SKIPPED:
            continue
        if steps and not _follows(steps[-1], record):
            timeouts[-1] = not steps[-1].flags & Flag.TERMINATED
        steps.append(record)
        timeouts.append(bool(record.flags & Flag.TRUNCATED))
    if not steps:
        raise JournalError(f"{folder} holds no step that can be learned from")
    timeouts[-1] = not steps[-1].flags & Flag.TERMINATED  # the journal ends here
    return Dataset(
        np.stack([step.obs for step in steps]),
        np.stack([step.sent for step in steps]),
        np.float32([step.reward for step in steps]),
        np.stack([step.next_obs for step in steps]),
        np.array([bool(step.flags & Flag.TERMINATED) for step in steps]),
        np.array(timeouts),
    )


def _follows(before: Transition, after: Transition) -> bool:
    return before.episode == after.episode and after.step == before.step + 1
