"""What the logged behaviour earned."""

import numpy as np

from hybrid_jax.datasets.hdf5 import Dataset

DROPPED = "next_observations: is missing"  # begins the note that the last row of each episode is not in the data


def episode_returns(dataset: Dataset, episode_length: int | None = None) -> np.ndarray:
    """Undiscounted return of each whole episode, in order [E]; rows after the last end are left out.

    episode_length: the environment's; a timeout before it has cut its episode, which is left out. None: all count.
    """
    ends = np.flatnonzero(dataset.terminals | dataset.timeouts)
    totals = np.cumsum(dataset.rewards, dtype=np.float64)[ends]
    returns = np.diff(totals, prepend=0.0)
    # where last rows were dropped, falls and time limits look like cuts
    if episode_length is None or any(note.startswith(DROPPED) for note in dataset.notes):
        return returns
    return returns[dataset.terminals[ends] | (np.diff(ends, prepend=-1) >= episode_length)]


def behaviour_return(dataset: Dataset, episode_length: int | None = None) -> float:
    """Mean return of the whole episodes.

    Raises ValueError if there is none: a mean over an episode that was cut says nothing.
    """
    returns = episode_returns(dataset, episode_length)
    if len(returns) == 0:
        ends, rows = int((dataset.terminals | dataset.timeouts).sum()), len(dataset.rewards)
        if ends == 0:
            raise ValueError(f"none of the {rows:,} rows ends an episode; mark the ends in terminals or timeouts")
        raise ValueError(
            f"none of the {ends:,} episodes in {rows:,} rows is whole, each was cut before its {episode_length:,}"
            " steps; record at least one to its end"
        )
    return float(returns.mean())
