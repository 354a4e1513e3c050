"""What the logged behaviour earned, and returns on D4RL's scale."""

import numpy as np

from hybrid_jax.datasets.hdf5 import Dataset

REFERENCE_RETURNS = {  # environment -> (random, expert); D4RL `infos.py`, the same for its v0, v1 and v2 sets
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}


def normalised_score(env: str, return_: float) -> float:
    """100 (J - J_random) / (J_expert - J_random), Fu et al. 2020: 0 is a random policy, 100 an expert.

    Raises ValueError for an environment without published reference returns.
    """
    if env not in REFERENCE_RETURNS:
        known = ", ".join(REFERENCE_RETURNS)
        raise ValueError(f"no reference returns for {env!r}; D4RL gives them for {known}")
    random, expert = REFERENCE_RETURNS[env]
    return 100.0 * (return_ - random) / (expert - random)


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
