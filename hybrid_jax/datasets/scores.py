"""What the logged behaviour earned."""

import numpy as np

from hybrid_jax.datasets.hdf5 import Dataset


def episode_returns(dataset: Dataset) -> np.ndarray:
    """Undiscounted return of each complete episode, in order [E]; rows after the last end are left out."""
    ends = np.flatnonzero(dataset.terminals | dataset.timeouts)
    totals = np.cumsum(dataset.rewards, dtype=np.float64)[ends]
    return np.diff(totals, prepend=0.0)


def behaviour_return(dataset: Dataset) -> float:
    """Mean return of the complete episodes.

    Raises ValueError if there is none: a mean over an episode that was cut says nothing.
    """
    returns = episode_returns(dataset)
    if len(returns) == 0:
        rows = len(dataset.rewards)
        raise ValueError(f"none of the {rows:,} rows ends an episode; mark the ends in terminals or timeouts")
    return float(returns.mean())
